//! The statuses, and names on the wire outside the messages.
//!
//! The keys, events and actions of messages are field names of structs in `server_message`,
//! `client_message` and `config`. `tests.rs` freezes them as JSON. A few that other layers search
//! for in raw JSON are here, too.

/// `event`: the id and the token of a created sandbox.
pub const EVENT_SANDBOX_ID: &str = "sandbox_id";
/// `event`, client to server: data for standard input.
#[cfg(any(test, feature = "test-util", feature = "unstable-internals"))]
pub const EVENT_STDIN: &str = "stdin";
/// Key: the kind of the message.
pub const KEY_EVENT: &str = "event";
/// Key: output or input text.
#[cfg(any(test, feature = "test-util", feature = "unstable-internals"))]
pub const KEY_DATA: &str = "data";
/// Key, v2: the id of an exec.
#[cfg(any(test, feature = "test-util", feature = "unstable-internals"))]
pub const KEY_EXEC: &str = "exec";
/// Key, and name of the query parameter of `/attach`: the token of a sandbox.
pub const KEY_SANDBOX_TOKEN: &str = "sandbox_token";
/// Configuration key: seconds of idleness after which the sandbox is deleted or checkpointed.
pub const CONFIG_IDLE_TIMEOUT: &str = "idle_timeout";

/// The WebSocket subprotocol of v2.
pub const SUBPROTOCOL_V2: &str = "sandbox.v2";

/// The feature: execs with an argument vector instead of code (v2).
pub const FEATURE_ARGV: &str = "argv";
/// The feature: execs with a builtin instead of code (v2).
pub const FEATURE_BUILTINS: &str = "builtins";
/// The feature: input and output in binary frames (v2).
pub const FEATURE_BINARY: &str = "binary";
/// The feature: signals for processes (v2).
pub const FEATURE_SIGNALS: &str = "signals";
/// The feature: execs with a terminal (v2).
pub const FEATURE_TERMINALS: &str = "terminals";
/// The feature: the builtins `connect`, `ports` and `wait_for_port` (v2).
pub const FEATURE_PORTS: &str = "ports";
/// The feature: the builtins `metrics` and `processes` (v2).
pub const FEATURE_METRICS: &str = "metrics";
/// The feature: labels, variables, limits and a maximum lifetime of a sandbox (v2).
pub const FEATURE_LIFETIME: &str = "lifetime";
/// The features that a server of this version lists in `SANDBOX_RUNNING`.
pub const FEATURES: [&str; 8] = [
    FEATURE_ARGV,
    FEATURE_BUILTINS,
    FEATURE_BINARY,
    FEATURE_SIGNALS,
    FEATURE_TERMINALS,
    FEATURE_PORTS,
    FEATURE_METRICS,
    FEATURE_LIFETIME,
];

/// Deployed servers answer stdin that arrives after the end of a process with `EXECUTION_ERROR` and
/// this reason. A client must not take it for the answer to the next exec.
pub const NO_PROCESS: &str = "No process is running";

/// Path of the endpoint that creates a sandbox.
pub const PATH_CREATE: &str = "/create";
/// Path of the endpoint that attaches to a sandbox; the id follows after a slash.
pub const PATH_ATTACH: &str = "/attach";
/// Path of the endpoint that lists the sandboxes of a server.
pub const PATH_SANDBOXES: &str = "/sandboxes";
/// Path of the endpoint for health checks.
pub const PATH_STATUS: &str = "/status";
/// Path of the endpoint that runs code once, in a new sandbox.
pub const PATH_EXECUTE: &str = "/execute";

/// Close code of a session that ended normally.
pub const CLOSE_NORMAL: u16 = 1000;
/// Close code after a message over the size limit (RFC 6455, 7.4.1).
pub const CLOSE_TOO_BIG: u16 = 1009;
/// Close code after `SANDBOX_NOT_FOUND` and `SANDBOX_IN_USE`.
pub const CLOSE_REFUSED: u16 = 1011;
/// Close code after every other fatal status.
pub const CLOSE_ERROR: u16 = 4000;

/// Calls a macro with the table of statuses: variant, name on the wire, severity, documentation.
///
/// The severity is that of protocol v1: see [`Severity`](super::Severity).
macro_rules! status_table {
    ($callback:ident) => {
        $callback! {
            SandboxCreating = "SANDBOX_CREATING", Progress, "First answer to a configuration.";
            SandboxRunning = "SANDBOX_RUNNING", Progress, "Created, attached, or restored, and ready.";
            SandboxCreationError = "SANDBOX_CREATION_ERROR", Fatal, "The sandbox could not be created.";
            SandboxNotFound = "SANDBOX_NOT_FOUND", FatalWithoutReason, "No sandbox has this id.";
            SandboxInUse = "SANDBOX_IN_USE", FatalWithoutReason, "Another client is attached. After a lost connection, the server may still treat the old one as attached.";
            SandboxPermissionDenialError = "SANDBOX_PERMISSION_DENIAL_ERROR", Fatal, "The token is wrong.";
            SandboxRestoring = "SANDBOX_RESTORING", Progress, "The sandbox is not in memory; the server looks for its checkpoint.";
            SandboxRestoreError = "SANDBOX_RESTORE_ERROR", Fatal, "The sandbox could not be restored.";
            ExecutionRunning = "SANDBOX_EXECUTION_RUNNING", Progress, "The exec started. Repeated after `reconnect`.";
            ExecutionDone = "SANDBOX_EXECUTION_DONE", Progress, "The exec ended. Protocol v1 carries no exit code.";
            ExecutionError = "SANDBOX_EXECUTION_ERROR", Refused, "The exec could not start, another one runs, or stdin arrived while none runs.";
            ExecutionUnsupportedLanguageError = "SANDBOX_EXECUTION_UNSUPPORTED_LANGUAGE_ERROR", Refused, "The server does not run this language.";
            ExecutionForceKilled = "SANDBOX_EXECUTION_FORCE_KILLED", Progress, "Answer to a kill of the process.";
            ExecutionForceKillError = "SANDBOX_EXECUTION_FORCE_KILL_ERROR", Refused, "The kill of the process failed.";
            ExecutionInProgressError = "SANDBOX_EXECUTION_IN_PROGRESS_ERROR", Refused, "Checkpoint refused because an exec runs.";
            StdinError = "SANDBOX_STDIN_ERROR", Refused, "A stdin message was malformed, or, under v2, the process does not take the input.";
            SandboxCheckpointing = "SANDBOX_CHECKPOINTING", Progress, "The checkpoint began.";
            SandboxCheckpointed = "SANDBOX_CHECKPOINTED", End, "The sandbox is stored and no longer on this instance.";
            SandboxCheckpointError = "SANDBOX_CHECKPOINT_ERROR", Fatal, "The checkpoint failed, which ends the session.";
            FilesystemSnapshotCreating = "SANDBOX_FILESYSTEM_SNAPSHOT_CREATING", Progress, "The filesystem snapshot began.";
            FilesystemSnapshotCreated = "SANDBOX_FILESYSTEM_SNAPSHOT_CREATED", Progress, "The filesystem snapshot is stored.";
            FilesystemSnapshotError = "SANDBOX_FILESYSTEM_SNAPSHOT_ERROR", Refused, "The filesystem snapshot failed; the session continues.";
            SandboxKilling = "SANDBOX_KILLING", Progress, "The kill of the sandbox began.";
            SandboxKilled = "SANDBOX_KILLED", End, "The sandbox was killed.";
            SandboxKillError = "SANDBOX_KILL_ERROR", Refused, "The kill of the sandbox failed.";
            SandboxDeleting = "SANDBOX_DELETING", Progress, "The sandbox is being deleted; also part of kill, checkpoint and idle timeout.";
            SandboxDeleted = "SANDBOX_DELETED", End, "The sandbox is deleted; also part of kill, checkpoint and idle timeout.";
            SandboxLockAcquiring = "SANDBOX_LOCK_ACQUIRING", Progress, "Handoff: this instance waits for the sandbox.";
            SandboxLockAcquired = "SANDBOX_LOCK_ACQUIRED", Progress, "Handoff: this instance owns the sandbox.";
            SandboxLockReleaseRequested = "SANDBOX_LOCK_RELEASE_REQUESTED", Progress, "Handoff: another instance requests the sandbox.";
            SandboxLockReleasing = "SANDBOX_LOCK_RELEASING", Progress, "Handoff: this instance releases the sandbox.";
            SandboxLockReleased = "SANDBOX_LOCK_RELEASED", Progress, "Handoff: this instance released the sandbox.";
            SandboxLockRenewalError = "SANDBOX_LOCK_RENEWAL_ERROR", Fatal, "The instance lost its lock and deletes the sandbox.";
            SandboxError = "SANDBOX_ERROR", Fatal, "Another error that ends the session.";
            ExecutionExited = "SANDBOX_EXECUTION_EXITED", Progress, "The main process of a named exec ended; its output may continue (v2).";
            SandboxLifetimeEnded = "SANDBOX_LIFETIME_ENDED", End, "The sandbox reached the end of its maximum lifetime. If it still runs, its deletion follows (v2).";
        }
    };
}
pub(super) use status_table;
