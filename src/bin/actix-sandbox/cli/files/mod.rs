//! `actix-sandbox cp`, `ls`, `cat` and `watch`: the files of a sandbox.

mod bar;
mod cat;
mod copy;
mod list;
mod place;
mod watch;

pub(crate) use self::{
    cat::Cat,
    copy::{Copy, report_skipped},
    list::List,
    watch::Watch,
};
