//! The one table of names on the wire. Nothing else in the crate spells one out.
//!
//! The names are frozen: the test at the end compares them with a list that may only grow.

/// `event`: a status changed.
pub const EVENT_STATUS_UPDATE: &str = "status_update";
/// `event`: the id and the token of a created sandbox.
pub const EVENT_SANDBOX_ID: &str = "sandbox_id";
/// `event`: a piece of standard output.
pub const EVENT_STDOUT: &str = "stdout";
/// `event`: a piece of standard error.
pub const EVENT_STDERR: &str = "stderr";
/// `event`: the reason of the error status before it.
pub const EVENT_ERROR: &str = "error";
/// `event`, client to server: data for standard input.
pub const EVENT_STDIN: &str = "stdin";

/// `event`, v2, client to server: output was taken.
pub const EVENT_ACK: &str = "ack";
/// `event`, v2: input was taken.
pub const EVENT_STDIN_ACK: &str = "stdin_ack";

/// `action`: kill the running process.
pub const ACTION_KILL_PROCESS: &str = "kill_process";
/// `action`: kill the sandbox.
pub const ACTION_KILL_SANDBOX: &str = "kill_sandbox";
/// `action`: store the sandbox's files under a name.
pub const ACTION_SNAPSHOT_FILESYSTEM: &str = "snapshot_filesystem";
/// `action`: store the whole sandbox and end it.
pub const ACTION_CHECKPOINT: &str = "checkpoint";
/// `action`: go on with the output of the exec after a new attach.
pub const ACTION_RECONNECT: &str = "reconnect";

/// Key: what kind of message this is.
pub const KEY_EVENT: &str = "event";
/// Key: the status of a status update.
pub const KEY_STATUS: &str = "status";
/// Key: a human-readable reason.
pub const KEY_MESSAGE: &str = "message";
/// Key: the id of a sandbox.
pub const KEY_SANDBOX_ID: &str = "sandbox_id";
/// Key, and name of the query parameter of `/attach`: the token of a sandbox.
pub const KEY_SANDBOX_TOKEN: &str = "sandbox_token";
/// Key: output or input text.
pub const KEY_DATA: &str = "data";
/// Key: what the client asks for.
pub const KEY_ACTION: &str = "action";
/// Key: the language of an exec.
pub const KEY_LANGUAGE: &str = "language";
/// Key: the code of an exec.
pub const KEY_CODE: &str = "code";
/// Key: the name of a filesystem snapshot.
pub const KEY_NAME: &str = "name";

/// Key, v2: the id of an exec, chosen by the client.
pub const KEY_EXEC: &str = "exec";
/// Key, v2: bytes before these.
pub const KEY_OFFSET: &str = "offset";
/// Key, v2: output or input that is not UTF-8, in base64.
pub const KEY_DATA_B64: &str = "data_b64";
/// Key, v2: the arguments of the code.
pub const KEY_ARGS: &str = "args";
/// Key, v2: environment variables.
pub const KEY_ENV: &str = "env";
/// Key, v2: the working directory.
pub const KEY_CWD: &str = "cwd";
/// Key, v2: milliseconds after which an exec is killed.
pub const KEY_TIMEOUT_MS: &str = "timeout_ms";
/// Key, v2: milliseconds for which output is read after the main process has ended.
pub const KEY_OUTPUT_GRACE_MS: &str = "output_grace_ms";
/// Key, v2: bytes of output that may be unacknowledged.
pub const KEY_WINDOW: &str = "window";
/// Key, v2: an offset in stdout.
pub const KEY_STDOUT: &str = "stdout";
/// Key, v2: an offset in stderr.
pub const KEY_STDERR: &str = "stderr";
/// Key, v2: bytes of input that were taken.
pub const KEY_STDIN: &str = "stdin";
/// Key, v2: the input ends here.
pub const KEY_EOF: &str = "eof";
/// Key, v2: the end of an exec was taken.
pub const KEY_DONE: &str = "done";
/// Key, v2: the exit code of a process.
pub const KEY_EXIT_CODE: &str = "exit_code";
/// Key, v2: the signal that ended a process.
pub const KEY_SIGNAL: &str = "signal";
/// Key, v2: whether a process still held the output when the server stopped reading it.
pub const KEY_OUTPUT_CUT: &str = "output_cut";
/// Key, v2: why an exec ended.
pub const KEY_REASON: &str = "reason";

/// `reason`, v2: by itself.
pub const REASON_EXITED: &str = "exited";
/// `reason`, v2: somebody asked for that.
pub const REASON_KILLED: &str = "killed";
/// `reason`, v2: it ran too long.
pub const REASON_TIMED_OUT: &str = "timed_out";
/// `reason`, v2: it ended with its sandbox, or nobody knows it.
pub const REASON_SANDBOX_LOST: &str = "sandbox_lost";

/// The WebSocket subprotocol of v2.
pub const SUBPROTOCOL_V2: &str = "sandbox.v2";

/// Configuration key: seconds of idleness after which the sandbox is deleted or checkpointed.
pub const CONFIG_IDLE_TIMEOUT: &str = "idle_timeout";
/// Configuration key: the sandbox may be checkpointed.
pub const CONFIG_ENABLE_CHECKPOINT: &str = "enable_checkpoint";
/// Configuration key: checkpoint instead of delete when idle.
pub const CONFIG_ENABLE_IDLE_TIMEOUT_AUTO_CHECKPOINT: &str = "enable_idle_timeout_auto_checkpoint";
/// Configuration key: another instance may take the sandbox over.
pub const CONFIG_ENABLE_SANDBOX_HANDOFF: &str = "enable_sandbox_handoff";
/// Configuration key: start from this filesystem snapshot.
pub const CONFIG_FILESYSTEM_SNAPSHOT_NAME: &str = "filesystem_snapshot_name";

/// Path of the endpoint that creates a sandbox.
pub const PATH_CREATE: &str = "/create";
/// Path of the endpoint that attaches to a sandbox; the id follows after a slash.
pub const PATH_ATTACH: &str = "/attach";
/// Path of the endpoint that says whether the server is well.
pub const PATH_STATUS: &str = "/status";
/// Path that runs code once, in a sandbox of its own.
pub const PATH_EXECUTE: &str = "/execute";

/// Close code of a session that ended as it should.
pub const CLOSE_NORMAL: u16 = 1000;
/// Close code of a message over the size limit (RFC 6455, 7.4.1).
pub const CLOSE_TOO_BIG: u16 = 1009;
/// Close code after `SANDBOX_NOT_FOUND` and `SANDBOX_IN_USE`.
pub const CLOSE_REFUSED: u16 = 1011;
/// Close code after every other fatal status.
pub const CLOSE_ERROR: u16 = 4000;

/// Calls a macro with the table of statuses: variant, name on the wire, severity, documentation.
///
/// The severity is that of protocol v1, see [`Severity`](super::Severity).
macro_rules! status_table {
    ($callback:ident) => {
        $callback! {
            SandboxCreating = "SANDBOX_CREATING", Progress, "First answer to a configuration.";
            SandboxRunning = "SANDBOX_RUNNING", Progress, "Created, attached, or restored, and ready.";
            SandboxCreationError = "SANDBOX_CREATION_ERROR", Fatal, "The sandbox could not be created.";
            SandboxNotFound = "SANDBOX_NOT_FOUND", FatalWithoutReason, "No sandbox has this id.";
            SandboxInUse = "SANDBOX_IN_USE", FatalWithoutReason, "Another client is attached. After a dropped link the server may still believe that the old connection is.";
            SandboxPermissionDenialError = "SANDBOX_PERMISSION_DENIAL_ERROR", Fatal, "The token is wrong.";
            SandboxRestoring = "SANDBOX_RESTORING", Progress, "The sandbox is not in memory and is being looked for.";
            SandboxRestoreError = "SANDBOX_RESTORE_ERROR", Fatal, "The sandbox could not be restored.";
            ExecutionRunning = "SANDBOX_EXECUTION_RUNNING", Progress, "The exec started; said again after `reconnect`.";
            ExecutionDone = "SANDBOX_EXECUTION_DONE", Progress, "The exec ended. Protocol v1 carries no exit code.";
            ExecutionError = "SANDBOX_EXECUTION_ERROR", Refused, "The exec could not start, another one runs, or stdin came while nothing runs.";
            ExecutionUnsupportedLanguageError = "SANDBOX_EXECUTION_UNSUPPORTED_LANGUAGE_ERROR", Refused, "The server does not run this language.";
            ExecutionForceKilled = "SANDBOX_EXECUTION_FORCE_KILLED", Progress, "Answer to a kill of the process.";
            ExecutionForceKillError = "SANDBOX_EXECUTION_FORCE_KILL_ERROR", Refused, "The kill of the process failed.";
            ExecutionInProgressError = "SANDBOX_EXECUTION_IN_PROGRESS_ERROR", Refused, "Checkpoint refused because an exec runs.";
            StdinError = "SANDBOX_STDIN_ERROR", Refused, "A stdin message was malformed.";
            SandboxCheckpointing = "SANDBOX_CHECKPOINTING", Progress, "The checkpoint began.";
            SandboxCheckpointed = "SANDBOX_CHECKPOINTED", End, "The sandbox is stored and no longer on this instance.";
            SandboxCheckpointError = "SANDBOX_CHECKPOINT_ERROR", Fatal, "The checkpoint failed, and the session with it.";
            FilesystemSnapshotCreating = "SANDBOX_FILESYSTEM_SNAPSHOT_CREATING", Progress, "The filesystem snapshot began.";
            FilesystemSnapshotCreated = "SANDBOX_FILESYSTEM_SNAPSHOT_CREATED", Progress, "The filesystem snapshot is stored.";
            FilesystemSnapshotError = "SANDBOX_FILESYSTEM_SNAPSHOT_ERROR", Refused, "The filesystem snapshot failed; the session goes on.";
            SandboxKilling = "SANDBOX_KILLING", Progress, "The kill of the sandbox began.";
            SandboxKilled = "SANDBOX_KILLED", End, "The sandbox is gone because it was killed.";
            SandboxKillError = "SANDBOX_KILL_ERROR", Refused, "The kill of the sandbox failed.";
            SandboxDeleting = "SANDBOX_DELETING", Progress, "The sandbox is being deleted; also part of kill, checkpoint and idle timeout.";
            SandboxDeleted = "SANDBOX_DELETED", End, "The sandbox is deleted; also part of kill, checkpoint and idle timeout.";
            SandboxLockAcquiring = "SANDBOX_LOCK_ACQUIRING", Progress, "Handoff: this instance waits for the sandbox.";
            SandboxLockAcquired = "SANDBOX_LOCK_ACQUIRED", Progress, "Handoff: this instance owns the sandbox.";
            SandboxLockReleaseRequested = "SANDBOX_LOCK_RELEASE_REQUESTED", Progress, "Handoff: another instance asks for the sandbox.";
            SandboxLockReleasing = "SANDBOX_LOCK_RELEASING", Progress, "Handoff: this instance gives the sandbox away.";
            SandboxLockReleased = "SANDBOX_LOCK_RELEASED", Progress, "Handoff: this instance gave the sandbox away.";
            SandboxLockRenewalError = "SANDBOX_LOCK_RENEWAL_ERROR", Fatal, "The instance lost its lock and deletes the sandbox.";
            SandboxError = "SANDBOX_ERROR", Fatal, "Anything else that ends the session.";
            ExecutionExited = "SANDBOX_EXECUTION_EXITED", Progress, "The main process of a named exec ended; its output may go on (v2).";
        }
    };
}
pub(super) use status_table;
