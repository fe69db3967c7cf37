// A tour of the client: each step prints one line of JSON. See README.md.

import { connect } from "@nats-io/transport-node";

import { ClusterError, Declined, Perdure } from "./perdure.mjs";

const servers = process.env.NATS_URL ?? "nats://127.0.0.1:4222";
const pass = process.env.NATS_PASSWORD;
const login = (user) => connect({ servers, ...(user && { user, pass }) });
// Two connections, since who calls needs other rights than who reads logs. The same is fine.
const caller = await login(process.env.CALLER);
const reader = await login(process.env.READER);
const namespace = process.env.PERDURE_NAMESPACE ?? "perdure";
const perdure = new Perdure(caller, { namespace });
const id = process.argv[2] ?? `ann@example.com ${Date.now()}`;

const show = (step, value) => console.log(JSON.stringify({ step, ...value }));

/** What a call that must fail fails with. */
async function refused(call) {
  try {
    return { answer: await call };
  } catch (error) {
    if (error instanceof Declined) return { failure: error.failure };
    if (error instanceof ClusterError) return { error: error.error };
    throw error;
  }
}

show("ask", await perdure.ask("purse", id, { type: "put", cents: 700 }, { key: "put-1" }));
show("the same key", await perdure.ask("purse", id, { type: "put", cents: 700 }, { key: "put-1" }));
show("a query", await perdure.ask("purse", id, { type: "look" }));
show("declined", await refused(perdure.ask("purse", id, { type: "take", cents: 9_000 })));
show("no such command", await refused(perdure.ask("purse", id, { type: "steal" })));
const other = { type: "put", cents: 1 };
show("another payload", await refused(perdure.ask("purse", id, other, { key: "put-1" })));

// A tell happens, whoever dies: here it is stored, and its answer comes when it comes.
const put = { type: "put", cents: 50 };
const answered = new Promise((onAnswer) => {
  perdure.tell("purse", id, put, { key: "put-2", onAnswer }).then((ack) => {
    show("tell", { seq: ack.seq, duplicate: ack.duplicate });
  });
});
show("answer to the tell", await answered);
await perdure.tell("purse", id, put, { key: "put-2" }); // once more: nothing happens
show("its result", await perdure.result("purse", id, "put-2"));

// A flow that waits for a confirmation tells so, and goes on with its token.
const much = { type: "take_much", cents: 600 };
const { error: suspended } = await refused(perdure.ask("purse", id, much, { key: "take-1" }));
show("suspended", { error: { ...suspended, resume_token: typeof suspended.resume_token } });
const outcome = perdure.result("purse", id, "take-1"); // waits for it
show("resume", await perdure.resume("purse", id, suspended.resume_token, { yes: true }));
show("its outcome", await outcome);

// What is true is the log.
for await (const commit of new Perdure(reader, { namespace }).log("purse", id)) {
  for (const { name, events = [], failure } of commit.outcomes) {
    show("log", { version: commit.version, name, events, ...(failure && { failure }) });
  }
}

await caller.drain();
await reader.drain();
