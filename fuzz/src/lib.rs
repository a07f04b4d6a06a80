//! What the fuzz targets do with their input. `tests/fuzz_seeds.rs` of the crate does the same with the seeds that are
//! kept in `corpus`.

mod client_machine;
mod codec;
mod input;
mod server_machine;

pub use client_machine::client_machine;
pub use codec::codec;
pub use server_machine::server_machine;
