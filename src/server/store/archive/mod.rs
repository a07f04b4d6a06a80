//! The archives of the store: how they are laid out, written and read.

mod codec;
pub(crate) mod layout;
pub(crate) mod pack;
pub(crate) mod unpack;

#[cfg(test)]
mod tests;
