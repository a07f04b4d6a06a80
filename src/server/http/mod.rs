//! The HTTP endpoints: who may call them, which connections the server keeps, and the service that
//! an application can mount.

pub(crate) mod access;
pub(crate) mod client_address;
pub(crate) mod connections;
pub(crate) mod execute;
pub(crate) mod list;
pub(crate) mod listener;
pub(crate) mod routes;
pub(crate) mod secret;
pub(crate) mod service;
