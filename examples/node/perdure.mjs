// A client of perdure in one file: asks, tells, results, resuming, and reading a log.
//
// Written from docs/wire.md alone; all that it needs is a NATS client. Each call is named by its
// key, so it may be repeated for ever and takes effect once.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

import { jetstream, jetstreamManager } from "@nats-io/jetstream";
import { createInbox, headers, RequestError, TimeoutError } from "@nats-io/transport-node";

const FIRST_WAIT_MS = 250; // an answer that takes longer is asked for again,
const LONGER = 1.7; // later and later
const MOVED_MS = 50; // until an entity's next owner is asked
const SUSPENDED_MS = 10_000; // until one that waits for a flow asks again, should it be forgotten
const NO_RESPONDERS = 503;
const NOBODY = { type: "RunnerUnavailable", cause: "no owner listens" };
const FULL = 10077; // JetStream: the entity's mailbox, or the command stream, is full

/** An entity declined a command: an outcome like a reply, and the same at each repetition. */
export class Declined extends Error {
  constructor(failure, answer) {
    super(JSON.stringify(failure));
    Object.assign(this, { name: "Declined", failure, answer });
  }
}

/** Infrastructure: one of the tagged errors of the wire, with all its fields in `error`. */
export class ClusterError extends Error {
  constructor(error) {
    super(`${error.type}: ${error.cause}`);
    Object.assign(this, { name: "ClusterError", error });
  }
}

/** An id as a token of a subject: each other byte is `=` and two capital hexadecimal digits. */
export function escape(id) {
  const escaped = (byte) => `=${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  const plain = (byte) => /[A-Za-z0-9_-]/.test(String.fromCharCode(byte));
  const token = (byte) => (plain(byte) ? String.fromCharCode(byte) : escaped(byte));
  return [...Buffer.from(id)].map(token).join("");
}

export class Perdure {
  constructor(nc, { namespace = "perdure", timeoutMs = 30_000 } = {}) {
    Object.assign(this, { nc, namespace, timeoutMs });
  }

  /** The answer to a command or query: `{reply, seq, version}`. Throws Declined, and ClusterError,
   *  which is `Suspended` where a flow waits, unless the outcome is waited for. */
  async ask(type, id, message, { key = randomUUID(), wait = false } = {}) {
    const named = headers();
    named.set("Idempotency-Key", key);
    return this.#repeat(type, id, JSON.stringify(message), named, { key, wait });
  }

  /** The outcome of a command that was asked or told under that key: now, or once it is there. */
  async result(type, id, key) {
    return this.#repeat(type, id, JSON.stringify([1, "result", null, key]), undefined, {
      key,
      wait: true,
    });
  }

  /** Have a command done, whoever dies: it is stored on return. Its answer can be had by `result`,
   *  or is handed to `onAnswer`, once, if nothing gets lost. */
  async tell(type, id, message, { key = randomUUID(), onAnswer } = {}) {
    const named = headers();
    named.set("Idempotency-Key", key);
    if (onAnswer) {
      const inbox = createInbox();
      const callback = (error, answer) => error || onAnswer(answer.json());
      this.nc.subscribe(inbox, { max: 1, callback });
      named.set("Perdure-Reply-To", inbox);
    }
    const subject = `${this.namespace}.to.${type}.${escape(id)}`;
    const until = Date.now() + this.timeoutMs;
    for (let wait = FIRST_WAIT_MS; ; wait *= LONGER) {
      try {
        const data = JSON.stringify(message);
        return { key, ...(await jetstream(this.nc).publish(subject, data, { headers: named })) };
      } catch (error) {
        // Full, being resized, or unknown: the same key makes a repetition harmless.
        const again = error.code === FULL || isNoResponders(error) || isTimeout(error);
        if (!again || Date.now() + wait > until) throw error;
        await sleep(wait * (0.5 + Math.random()));
      }
    }
  }

  /** Give a suspended flow its value, by the token that `Suspended` or somebody told. */
  async resume(type, id, token, value) {
    return this.ask(type, id, { type: "$resume", token, value });
  }

  /** An entity's commits so far, in their order, from the log itself. Needs the right to
   *  `$JS.API.STREAM.MSG.GET.PERDURE_LOG_<type>`, and no runner. */
  async *log(type, id) {
    const jsm = await jetstreamManager(this.nc, { checkAPI: false });
    const stream = `${this.namespace.toUpperCase()}_LOG_${type}`;
    const next_by_subj = `${this.namespace}.log.${type}.${escape(id)}`;
    let [prev, version] = ["", 0];
    for (let seq = 1; ; seq += 1) {
      const stored = await jsm.streams.getMessage(stream, { seq, next_by_subj });
      if (stored === null) return;
      seq = stored.seq;
      const mark = stored.header?.get("Perdure-Commit");
      if (!mark) continue; // foreign: no commit
      if (stored.data[0] !== "{".charCodeAt(0)) throw new Error(`${seq}: MessagePack`);
      const commit = stored.json();
      version += commit.outcomes.reduce((sum, outcome) => sum + (outcome.events ?? []).length, 0);
      if (commit.v !== 1 || commit.prev !== prev || commit.version !== version) {
        throw new Error(`${seq}: the log isn't whole`);
      }
      prev = mark;
      yield { seq, ...commit };
    }
  }

  // Repeats an ask until it has an outcome. Each attempt has a reply subject of its own below one
  // inbox: a recorded answer to any attempt counts, an error only if it answers the newest.
  async #repeat(type, id, data, named, { key, wait }) {
    const subject = `${this.namespace}.ask.${type}.${escape(id)}`;
    const until = Date.now() + this.timeoutMs;
    const inbox = createInbox();
    const answers = this.#listen(`${inbox}.*`);
    let last = { address: `${type}/${id}`, key, type: "SendTimeout", cause: "no answer in time" };
    let maybe = false; // whether an earlier attempt may have, or may still get, its effect
    try {
      for (let n = 0, pause = FIRST_WAIT_MS; Date.now() < until; n += 1, pause *= LONGER) {
        let end = Date.now() + pause * (0.8 + 0.4 * Math.random());
        let open = true; // the same of this attempt
        this.nc.publish(subject, data, { reply: `${inbox}.${n}`, headers: named });
        for (let message; (message = await answers.next(Math.min(end, until))); ) {
          const newest = message.subject === `${inbox}.${n}`;
          if (message.headers?.code === NO_RESPONDERS) {
            if (newest) [open, last] = [false, { ...last, ...NOBODY }];
            continue;
          }
          const answer = message.json();
          if ("reply" in answer) return answer;
          if ("failure" in answer) throw new Declined(answer.failure, answer);
          if ("seq" in answer) throw new ClusterError(answer.error); // recorded
          if (!newest) continue;
          last = answer.error;
          open = last.may_have_taken_effect;
          last.may_have_taken_effect ||= maybe;
          if (last.type === "AlreadyProcessingMessage") end += pause;
          else if (last.type === "EntityNotAssignedToRunner") end = Date.now() + MOVED_MS;
          else if (last.type === "Suspended" && wait) end = Date.now() + SUSPENDED_MS;
          else if (last.type !== "MailboxFull") throw new ClusterError(last);
        }
        maybe ||= open;
      }
    } finally {
      answers.close();
    }
    last = { advice: "retry with the same key", ...last, may_have_taken_effect: maybe };
    throw new ClusterError(last);
  }

  // What arrives on a subject: `next` gives a message, or undefined at that moment.
  #listen(subject) {
    const arrived = [];
    let wake = () => {};
    const callback = (error, message) => {
      if (!error) arrived.push(message);
      wake();
    };
    const subscription = this.nc.subscribe(subject, { callback });
    const next = async (moment) => {
      const ms = Math.max(0, moment - Date.now());
      const woken = new Promise((resolve) => (wake = resolve));
      if (!arrived.length) await Promise.race([woken, sleep(ms, undefined, { ref: false })]);
      return arrived.shift();
    };
    return { next, close: () => subscription.unsubscribe() };
  }
}

// The NATS client's own errors may be wrapped: "JetStream is not enabled" is one of no responders.
function isNoResponders(error) {
  return [error, error?.cause].some((e) => e instanceof RequestError && e.isNoResponders());
}

function isTimeout(error) {
  return error instanceof TimeoutError || error?.cause instanceof TimeoutError;
}
