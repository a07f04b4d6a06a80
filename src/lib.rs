//! Client runtime for remote code sandboxes, built from actors.
