//! Limits and defaults that both sides share, each with its unit.

use std::time::Duration;

/// Largest WebSocket message that either side takes, in bytes, unless told otherwise: 16 MiB.
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Idle timeout that a client sends unless told otherwise: 60 seconds.
pub const DEFAULT_CLIENT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Idle timeout that a server applies when the configuration names none: 300 seconds.
pub const DEFAULT_SERVER_IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Bytes of input that may be on the way past what the process has taken (v2): 256 KiB.
pub const STDIN_WINDOW: u64 = 256 * 1024;

/// Bytes of output that may be unacknowledged, where an exec names no window (v2): 1 MiB.
pub const DEFAULT_WINDOW: u64 = 1024 * 1024;

/// Smallest window that a server keeps to (v2): 1 KiB.
pub const MIN_WINDOW: u64 = 1024;

/// Most characters of a frame that an error quotes.
pub const EXCERPT_CHARS: usize = 200;

/// How long output is read after the end of the main process, while other processes hold it, unless
/// the client says otherwise (v2).
pub const DEFAULT_OUTPUT_GRACE: Duration = Duration::from_secs(2);
