//! One WebSocket: its reader, its writer, and the queue of messages to the client.

pub(crate) mod client_link;
pub(crate) mod conversation;
pub(crate) mod message_reader;
pub(crate) mod socket_writer;
