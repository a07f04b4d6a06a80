#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| actix_sandbox_fuzz::agent_frames(data));
