//! Tables and properties of the sandbox machine.
