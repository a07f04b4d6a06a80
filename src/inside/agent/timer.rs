//! [`Timer`]: a timer that `poll` can wait for.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    io::Errno,
    time::{
        ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec,
        clock_gettime, timerfd_create, timerfd_settime,
    },
};

/// The time since an arbitrary moment, in whole seconds.
pub(super) fn now() -> Duration {
    Duration::from_secs(clock_gettime(ClockId::Monotonic).tv_sec.unsigned_abs())
}

pub(super) struct Timer {
    fd: OwnedFd,
    is_running: bool,
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Timer {
    pub(super) fn new() -> Result<Self, Errno> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self {
            fd,
            is_running: false,
        })
    }

    /// Lets the timer expire once, after this time.
    pub(super) fn start(&mut self, after: Duration) {
        self.set(after);
        self.is_running = true;
    }

    /// Like [`start`](Self::start), unless the timer runs already.
    pub(super) fn start_if_idle(&mut self, after: Duration) {
        if !self.is_running {
            self.start(after);
        }
    }

    pub(super) fn stop(&mut self) {
        self.set(Duration::ZERO);
        self.is_running = false;
    }

    /// Makes the timer unready after it has expired.
    pub(super) fn take(&mut self) {
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        self.is_running = false;
    }

    /// Sets the time. Zero stops the timer.
    fn set(&self, after: Duration) {
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: after.as_secs().cast_signed(),
                tv_nsec: after.subsec_nanos().into(),
            },
        };
        let _ = timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once);
    }
}
