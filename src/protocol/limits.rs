//! Limits and defaults that both sides share, each with its unit.

use std::time::Duration;

/// Default maximum size of a WebSocket message, in bytes, on both sides: 16 MiB.
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Default idle timeout that a client sends: 60 s.
pub const DEFAULT_CLIENT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Idle timeout that a server applies if the configuration contains none: 300 s.
pub const DEFAULT_SERVER_IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// How many bytes of input this server lets a client send past the last acknowledgement (v2):
/// 1 MiB.
pub const STDIN_WINDOW: u64 = 1024 * 1024;

/// The same limit for a server that doesn't announce one (v2): 256 KiB.
pub const OLD_STDIN_WINDOW: u64 = 256 * 1024;

/// Default window of an exec: how many bytes of output may be unacknowledged (v2): 1 MiB.
pub const DEFAULT_WINDOW: u64 = 1024 * 1024;

/// The smallest window of an exec, in bytes (v2): 1 KiB.
pub const MIN_WINDOW: u64 = 1024;

/// The maximum number of characters of a frame that an error quotes.
pub const EXCERPT_CHARS: usize = 200;

/// Default output grace: how long the server keeps reading output after the main process has exited
/// while other processes hold it open (v2).
pub const DEFAULT_OUTPUT_GRACE: Duration = Duration::from_secs(2);
