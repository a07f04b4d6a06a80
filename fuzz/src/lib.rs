//! The code of the fuzz targets. The crate's test `fuzz_seeds` runs it on the seeds in `corpus`.

mod agent_frames;
mod client_machine;
mod codec;
mod input;
mod server_machine;

pub use agent_frames::agent_frames;
pub use client_machine::client_machine;
pub use codec::codec;
pub use server_machine::server_machine;
