//! Who gets what: filters, interest of other shards, shared groups, retained messages, mailboxes.
#![forbid(unsafe_code)]
