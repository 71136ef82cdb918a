//! Counters, spelled as `nstat` prints them.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// One counter of a stack ("namespace").
        #[allow(missing_docs, non_camel_case_types, reason = "the kernel documents them by these names")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Counter { $($(#[$doc])* $name),+ }

        impl Counter {
            /// All counters in the order they are printed.
            pub const ALL: &'static [Counter] = &[$(Counter::$name),+];

            /// The name as `nstat` prints it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$name => stringify!($name)),+ }
            }
        }
    };
}

counters! {
    /// Segments received, also bad ones.
    TcpInSegs,
    /// Segments sent, retransmissions not counted.
    TcpOutSegs,
    /// Segments sent again.
    TcpRetransSegs,
    /// Segments received with an error.
    TcpInErrs,
    /// RSTs sent.
    TcpOutRsts,
    TcpInCsumErrors,
    TcpActiveOpens,
    TcpPassiveOpens,
    TcpAttemptFails,
    TcpEstabResets,
    TcpExtPruneCalled,
    TcpExtRcvPruned,
    TcpExtOfoPruned,
    TcpExtTCPRcvCollapsed,
    TcpExtTCPRcvCoalesce,
    TcpExtTCPBacklogCoalesce,
    TcpExtTCPBacklogDrop,
    TcpExtTCPOFOQueue,
    TcpExtTCPOFODrop,
    TcpExtTCPOFOMerge,
    TcpExtTCPRcvQDrop,
    TcpExtTCPZeroWindowDrop,
    TcpExtBeyondWindow,
    TcpExtTCPWantZeroWindowAdv,
    TcpExtTCPToZeroWindowAdv,
    TcpExtTCPFromZeroWindowAdv,
    TcpExtTCPHPHits,
    TcpExtTCPPureAcks,
    TcpExtTCPHPAcks,
    TcpExtDelayedACKs,
    TcpExtDelayedACKLocked,
    TcpExtDelayedACKLost,
    TcpExtTCPDSACKOldSent,
    TcpExtTCPDSACKOfoSent,
    TcpExtTCPAckCompressed,
    TcpExtTCPACKSkippedSeq,
    TcpExtTCPACKSkippedPAWS,
    TcpExtTCPACKSkippedChallenge,
    TcpExtTCPChallengeACK,
    TcpExtTCPSYNChallenge,
    TcpExtPAWSEstab,
    TcpExtPAWSOldAck,
    TcpExtTCPMemoryPressures,
    TcpExtTCPMemoryPressuresChrono,
    TcpExtListenOverflows,
    TcpExtListenDrops,
    TcpExtTCPAbortOnData,
    TcpExtTCPAbortOnClose,
    TcpExtTCPAbortOnTimeout,
    TcpExtTCPTimeouts,
    TcpExtTCPFastRetrans,
    /// The path's hash was changed after a retransmission timeout.
    TcpExtTcpTimeoutRehash,
    /// The path's hash was changed because the same old data came again.
    TcpExtTcpDuplicateDataRehash,
    TcpExtTCPRcvQFull,
    TcpExtTW,
}

/// All counters of one stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    values: [u64; Counter::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Counters { values: [0; Counter::ALL.len()] }
    }
}

impl Counters {
    /// The value of one counter.
    #[must_use]
    pub fn get(&self, c: Counter) -> u64 {
        self.values.get(c as usize).copied().unwrap_or(0)
    }

    /// The value of the counter of that name, if there is one.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<u64> {
        Counter::ALL.iter().find(|c| c.name() == name).map(|c| self.get(*c))
    }

    /// Names and values in printing order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Counter::ALL.iter().map(|c| (c.name(), self.get(*c)))
    }

    #[inline(always)]
    pub(crate) fn inc(&mut self, c: Counter) {
        self.add(c, 1);
    }

    #[inline(always)]
    pub(crate) fn add(&mut self, c: Counter, n: u64) {
        if let Some(v) = self.values.get_mut(c as usize) {
            *v = v.wrapping_add(n);
        }
    }
}
