//! The tests of the program itself, in `program/`: they are written in Python, and need no server.

use std::process::Command;

#[test]
fn the_program_passes_its_own_tests() {
    let root = env!("CARGO_MANIFEST_DIR");
    let tests = format!("{root}/tests/lift/program");
    let output = Command::new("python3")
        .args([
            "-B", "-m", "unittest", "discover", "-s", &tests, "-t", &tests,
        ])
        .env("PYTHONPATH", format!("{root}/src/lift"))
        .output()
        .expect("python3");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("Ran 0 tests"), "{said}");
}
