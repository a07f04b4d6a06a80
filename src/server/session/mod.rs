//! One WebSocket: what is read from it, and the queue of what is written to it.

pub(crate) mod client_link;
pub(crate) mod conversation;
pub(crate) mod message_reader;
pub(crate) mod socket_writer;
