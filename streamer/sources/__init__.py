"""Where text comes from: each kind of source lists its shards and reads one as documents."""
