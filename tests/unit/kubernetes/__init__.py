"""The manifests in deploy/kubernetes, rendered, validated and held to our own policies."""
