//! What a mutation takes away, to show that the checks would notice.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutation {
    /// Nothing: the control.
    None,
    /// A write is reported durable without a sync.
    SkippedSync,
    /// The vote is left out of what is written.
    VoteNotPersisted,
    /// A read is answered from what the node has applied.
    UnsafeRead,
    /// Entries that were replaced leave a tail behind.
    ForgottenTruncation,
    /// A node that lost its disk votes on under its old id.
    AmnesiacVoter,
    /// A log that lost its end is trusted.
    TrustedTornLog,
}

impl Mutation {
    pub const ALL: [Mutation; 6] = [
        Mutation::SkippedSync,
        Mutation::VoteNotPersisted,
        Mutation::UnsafeRead,
        Mutation::ForgottenTruncation,
        Mutation::AmnesiacVoter,
        Mutation::TrustedTornLog,
    ];

    pub fn what(self) -> &'static str {
        match self {
            Mutation::None => "nothing (control)",
            Mutation::SkippedSync => "a skipped sync",
            Mutation::VoteNotPersisted => "a vote not persisted",
            Mutation::UnsafeRead => "an unsafe read",
            Mutation::ForgottenTruncation => "a forgotten truncation",
            Mutation::AmnesiacVoter => "an amnesiac voter",
            Mutation::TrustedTornLog => "a trusted torn log",
        }
    }
}
