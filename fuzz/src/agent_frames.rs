//! The frames that an agent sends to the server.

/// Feeds the bytes to the server as the frames of an agent.
pub fn agent_frames(data: &[u8]) {
    #[cfg(target_os = "linux")]
    actix_sandbox::inside::check_frames(data);
    #[cfg(not(target_os = "linux"))]
    let _ = data;
}
