//! The endpoints over HTTP: who may call them, which connections are kept, the service to mount.

pub(crate) mod access;
pub(crate) mod client_address;
pub(crate) mod connections;
pub(crate) mod execute;
pub(crate) mod listener;
pub(crate) mod routes;
pub(crate) mod secret;
pub(crate) mod service;
