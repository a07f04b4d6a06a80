//! [`Outgoing`]: the lines to the program's stdin, `NUMBER JSON`, within a window.

use std::collections::{BTreeSet, VecDeque};

use crate::protocol::{ExecId, utf8_boundary};

/// How many bytes may be on their way to the program. A v1 service buffers them without a limit.
const WINDOW_BYTES: u64 = 1024 * 1024;
/// The largest piece of a line in one message. v1 treats stdin as a stream, so a line may take
/// several messages.
const MAX_PIECE_BYTES: usize = 32 * 1024;

/// What a line requests from the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Run an exec.
    Exec,
    /// Resume an exec.
    Reconnect,
    /// Kill an exec.
    Kill,
    /// Anything else about an exec that exists.
    Other,
}

/// A line to the program.
#[derive(Debug)]
pub(super) struct Line {
    /// The exec that the line is about. `None` for lines of the tunnel itself.
    pub(super) exec: Option<ExecId>,
    pub(super) request: Request,
    json: String,
    /// Reported when the last byte was written.
    tag: Option<u64>,
}

impl Line {
    pub(super) fn new(exec: ExecId, request: Request, json: String, tag: Option<u64>) -> Self {
        let exec = Some(exec);
        Self {
            exec,
            request,
            json,
            tag,
        }
    }

    /// A line of the tunnel itself.
    pub(super) fn note(json: String) -> Self {
        Self {
            exec: None,
            request: Request::Other,
            json,
            tag: None,
        }
    }
}

/// The lines to the program, in order.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    waiting: VecDeque<Line>,
    /// The first of the waiting lines with its number, and how many bytes of it were sent.
    current: Option<(String, usize)>,
    /// Sent lines that the program may not have read, and the number of bytes up to their ends.
    in_flight: VecDeque<(Line, u64)>,
    /// The number of the next line.
    next: u64,
    sent: u64,
    taken: u64,
}

impl Outgoing {
    pub(super) fn push(&mut self, line: Line) {
        self.waiting.push_back(line);
    }

    pub(super) fn push_front(&mut self, line: Line) {
        self.waiting.push_front(line);
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The next piece to send, and the tag to report when it is written.
    pub(super) fn next_piece(&mut self) -> Option<(String, Option<u64>)> {
        let room = usize::try_from(WINDOW_BYTES.saturating_sub(self.sent - self.taken)).ok()?;
        let line = self.waiting.front()?;
        let (text, from) = self.current.get_or_insert_with(|| {
            let number = self.next;
            self.next += 1;
            (format!("{number} {}\n", line.json), 0)
        });
        let rest = &text[*from..];
        let most = rest.len().min(room).min(MAX_PIECE_BYTES);
        let end = utf8_boundary(&rest.as_bytes()[..most]);
        if end == 0 {
            return None;
        }
        let piece = rest[..end].to_owned();
        *from += end;
        self.sent += end as u64;
        if *from < text.len() {
            return Some((piece, None));
        }
        self.current = None;
        let line = self.waiting.pop_front()?;
        let tag = line.tag;
        self.in_flight.push_back((line, self.sent));
        Some((piece, tag))
    }

    /// The program has read this many bytes.
    pub(super) fn handle_taken(&mut self, bytes: u64) {
        self.taken = bytes.clamp(self.taken, self.sent);
        while self
            .in_flight
            .front()
            .is_some_and(|(_, end)| *end <= self.taken)
        {
            self.in_flight.pop_front();
        }
    }

    /// Drops the requests to start these execs, waiting or in flight.
    pub(super) fn abandon(&mut self, execs: &BTreeSet<ExecId>) {
        let is_kept = |line: &Line| {
            line.request != Request::Exec || line.exec.as_ref().is_none_or(|it| !execs.contains(it))
        };
        self.waiting.retain(is_kept);
        self.in_flight.retain(|(line, _)| is_kept(line));
    }

    /// Begins with line 0 again: a new program reads from here. With `taken`, the old
    /// program had read this many bytes when it shut down gracefully, so later lines are sent
    /// again. Returns the lines that no new program needs, because they are about execs of the old
    /// one.
    pub(super) fn restart(&mut self, taken: Option<u64>) -> Vec<Line> {
        let unread = match taken {
            None => VecDeque::new(),
            Some(bytes) => {
                self.handle_taken(bytes);
                std::mem::take(&mut self.in_flight)
            }
        };
        let waiting = std::mem::take(&mut self.waiting);
        let lines = unread.into_iter().map(|(line, _)| line).chain(waiting);
        let mut begun = BTreeSet::new();
        let mut dropped = Vec::new();
        let mut kept = VecDeque::new();
        for line in lines {
            let Some(exec) = &line.exec else { continue };
            if matches!(line.request, Request::Exec | Request::Reconnect) {
                begun.insert(exec.clone());
            }
            match begun.contains(exec) {
                true => kept.push_back(line),
                false => dropped.push(line),
            }
        }
        *self = Self {
            waiting: kept,
            ..Self::default()
        };
        dropped
    }

    /// Removes all lines that wait.
    pub(super) fn drain(&mut self) -> Vec<Line> {
        self.current = None;
        self.waiting.drain(..).collect()
    }

    /// The execs that the waiting lines start or resume.
    pub(super) fn begins(&self) -> BTreeSet<ExecId> {
        let begins = |line: &&Line| matches!(line.request, Request::Exec | Request::Reconnect);
        let begins = self.waiting.iter().filter(begins);
        begins.filter_map(|line| line.exec.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(exec: &str, request: Request, json: &str) -> Line {
        Line::new(ExecId::new(exec), request, json.to_owned(), Some(7))
    }

    fn pieces(outgoing: &mut Outgoing) -> Vec<(String, Option<u64>)> {
        std::iter::from_fn(|| outgoing.next_piece()).collect()
    }

    #[test]
    fn lines_are_numbered_and_cut_at_code_points_within_the_window() {
        let mut outgoing = Outgoing::default();
        outgoing.push(Line::note("{}".to_owned()));
        outgoing.push(line("a", Request::Exec, &"é".repeat(800_000)));
        let sent = pieces(&mut outgoing);
        assert_eq!(sent[0], ("0 {}\n".to_owned(), None));
        let bytes: usize = sent.iter().map(|(piece, _)| piece.len()).sum();
        assert!((bytes as u64).abs_diff(WINDOW_BYTES) <= 1, "{bytes}");
        assert!(
            sent.iter()
                .all(|(piece, tag)| piece.len() <= MAX_PIECE_BYTES && tag.is_none())
        );
        outgoing.handle_taken(u64::MAX);
        let rest = pieces(&mut outgoing);
        assert_eq!(rest.last().map(|(_, tag)| *tag), Some(Some(7)));
        let text: String = sent
            .into_iter()
            .chain(rest)
            .map(|(piece, _)| piece)
            .collect();
        assert_eq!(text, format!("0 {{}}\n1 {}\n", "é".repeat(800_000)));
    }

    #[test]
    fn unread_lines_are_sent_again_except_those_of_old_execs() {
        let mut outgoing = Outgoing::default();
        outgoing.push(line("old", Request::Exec, "old"));
        let taken = pieces(&mut outgoing)[0].0.len() as u64;
        outgoing.push(line("old", Request::Other, "ack"));
        outgoing.push(line("new", Request::Exec, "new"));
        pieces(&mut outgoing);
        outgoing.push(line("new", Request::Other, "input"));
        outgoing.push(line("old", Request::Kill, "kill"));
        let dropped = outgoing.restart(Some(taken));
        let requests: Vec<_> = dropped.iter().map(|line| line.request).collect();
        assert_eq!(requests, [Request::Other, Request::Kill]);
        let sent: Vec<_> = pieces(&mut outgoing).into_iter().map(|it| it.0).collect();
        assert_eq!(sent, ["0 new\n", "1 input\n"]);
    }

    #[test]
    fn only_unsent_lines_survive_a_program_that_was_killed() {
        let mut outgoing = Outgoing::default();
        outgoing.push(line("sent", Request::Exec, "sent"));
        pieces(&mut outgoing);
        outgoing.push(line("unsent", Request::Exec, "unsent"));
        outgoing.restart(None);
        assert_eq!(outgoing.begins(), BTreeSet::from([ExecId::new("unsent")]));
    }
}
