//! [`Phase`]: the steps of a sandbox.

use serde::{Deserialize, Serialize};

/// A step of a sandbox whose latency is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// From the arrival until the sandbox runs.
    Create,
    /// From the request to run the script until the server reports that it runs.
    ExecStart,
    /// From the request to run the script until its first output.
    FirstOutput,
    /// From the arrival until the first output of the first exec, if that exec succeeds.
    Interactive,
    /// From the request to run the script until it has ended and all of its output has arrived.
    End,
    /// From the request to kill the sandbox until the sandbox is gone.
    Kill,
    /// From the arrival until the sandbox is gone.
    Whole,
}

impl Phase {
    pub(super) const ALL: [Self; 7] = [
        Self::Create,
        Self::ExecStart,
        Self::FirstOutput,
        Self::Interactive,
        Self::End,
        Self::Kill,
        Self::Whole,
    ];

    /// The name in JSON and in expressions.
    pub(super) fn key(self) -> String {
        self.name().replace(' ', "_")
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::ExecStart => "exec start",
            Self::FirstOutput => "first output",
            Self::Interactive => "interactive",
            Self::End => "end",
            Self::Kill => "kill",
            Self::Whole => "whole",
        }
    }
}
