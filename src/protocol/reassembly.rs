//! [`Reassembly`]: joins the fragments of a message, up to a limit.

use bytes::{Bytes, BytesMut};

/// A fragment of a message (RFC 6455, 5.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// The first fragment of a text message.
    First(Bytes),
    /// A fragment that is neither the first nor the last.
    Middle(Bytes),
    /// The last fragment.
    Last(Bytes),
}

/// Why fragments can't be joined to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReassemblyError {
    /// The fragments together exceed the limit.
    #[error("a fragmented message is over the limit of {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// A fragment belongs to no message, or a new message begins before the last fragment of the
    /// previous one.
    #[error("a fragment out of order")]
    OutOfOrder,
}

/// Joins the fragments of messages.
#[derive(Debug)]
pub struct Reassembly {
    limit: usize,
    message: Option<BytesMut>,
}

impl Reassembly {
    /// Joins messages of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            message: None,
        }
    }

    /// Takes a fragment. Returns the message once it is complete.
    ///
    /// # Errors
    ///
    /// Fails if the message exceeds the limit or the fragment is out of order.
    pub fn push(&mut self, fragment: Fragment) -> Result<Option<Bytes>, ReassemblyError> {
        let (data, last) = match (fragment, &mut self.message) {
            (Fragment::First(data), message @ None) => {
                *message = Some(BytesMut::new());
                (data, false)
            }
            (Fragment::Middle(data), Some(_)) => (data, false),
            (Fragment::Last(data), Some(_)) => (data, true),
            _ => return Err(ReassemblyError::OutOfOrder),
        };
        let message = self.message.get_or_insert_default();
        if message.len() + data.len() > self.limit {
            return Err(ReassemblyError::TooLarge { limit: self.limit });
        }
        message.extend_from_slice(&data);
        Ok(if last {
            self.message.take().map(BytesMut::freeze)
        } else {
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_become_one_message() {
        let mut reassembly = Reassembly::new(9);
        assert_eq!(reassembly.push(Fragment::First("abc".into())), Ok(None));
        assert!(reassembly.message.is_some());
        assert_eq!(reassembly.push(Fragment::Middle("def".into())), Ok(None));
        assert_eq!(
            reassembly.push(Fragment::Last("ghi".into())),
            Ok(Some("abcdefghi".into()))
        );
        assert!(reassembly.message.is_none());
    }

    #[test]
    fn fragments_over_the_limit_or_out_of_order_are_refused() {
        let mut reassembly = Reassembly::new(3);
        assert_eq!(
            reassembly.push(Fragment::Last("a".into())),
            Err(ReassemblyError::OutOfOrder)
        );
        assert_eq!(reassembly.push(Fragment::First("ab".into())), Ok(None));
        assert_eq!(
            reassembly.push(Fragment::First("a".into())),
            Err(ReassemblyError::OutOfOrder)
        );
        assert_eq!(
            reassembly.push(Fragment::Middle("cd".into())),
            Err(ReassemblyError::TooLarge { limit: 3 })
        );
    }
}
