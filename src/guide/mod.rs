//! A guide: from a first program to a sandbox service in production.
//!
//! Each page explains one topic. Its programs are tested. The reference documentation of an
//! item has its errors, defaults and cancel safety.
//!
//! A *service* runs *sandboxes*, and a client talks to it by a WebSocket. The [`LocalServer`] is a
//! service in your program or on your machine; its *backend* decides how code is confined. Services
//! speak *protocol v1*, which has no exit statuses and no files, or *v2*, which has them. *The
//! lift* provides most of v2 on a v1 service.
//!
//! [`LocalServer`]: crate::LocalServer
//!
//! | page | topic |
//! | --- | --- |
//! | [`first_steps`] | run code, stream its output, write to its stdin, handle errors |
//! | [`untrusted_code`] | confine code, limit what it uses, and distrust what it returns |
//! | [`files`] | move files and directories, watch changes, prepare snapshots |
//! | [`terminals`] | interactive programs: shells, REPLs, editors; signals |
//! | [`reconnection`] | lost connections, crashed clients, and what is guaranteed |
//! | [`actors`] | drive sandboxes by messages, without the handles |
//! | [`actix_web`] | sandboxes in a web application |
//! | [`broker`] | jobs from a message broker, each result exactly once |
//! | [`deploying`] | run the service on a server: systemd, nginx, TLS, secrets, limits |
//! | [`benchmarking`] | measure a service, compare two, fail a nightly job |
//! | [`testing`] | test your own program with recordings and injected faults |
//! | [`porting`] | the equivalents of the calls of the TypeScript and Python clients, and of E2B |

#[doc = include_str!("first_steps.md")]
pub mod first_steps {}

#[doc = include_str!("untrusted_code.md")]
pub mod untrusted_code {}

#[doc = include_str!("files.md")]
pub mod files {}

#[doc = include_str!("terminals.md")]
pub mod terminals {}

#[doc = include_str!("reconnection.md")]
pub mod reconnection {}

#[doc = include_str!("actors.md")]
pub mod actors {}

#[doc = include_str!("actix_web.md")]
pub mod actix_web {}

#[doc = include_str!("broker.md")]
pub mod broker {}

#[doc = include_str!("deploying.md")]
pub mod deploying {}

#[doc = include_str!("benchmarking.md")]
pub mod benchmarking {}

#[doc = include_str!("testing.md")]
pub mod testing {}

#[doc = include_str!("porting.md")]
pub mod porting {}
