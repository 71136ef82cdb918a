//! Plays a situation: says which step it is, and when the next one begins. No clock, no frames: facts in, steps out.

use rightedge_stack::time::Instant;

use super::situation::{Situation, Step};

/// What the steps of a situation are waiting for.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The time.
    pub now: Instant,
    /// Bytes of the peer's stream in order at the receiver.
    pub received: u64,
    /// Position behind the last byte sent, the end counting as one.
    pub sent: u64,
    /// What the peer knows to be acknowledged.
    pub acked: u64,
    /// Segments that came from the peer, ever.
    pub segments: u64,
    /// When the last one came.
    pub last_segment: Instant,
}

/// Where in a situation we are.
#[derive(Debug)]
pub struct Director {
    steps: Vec<Step>,
    at: usize,
    began: Instant,
    segments_before: u64,
    virtual_clock: bool,
    missed: Vec<String>,
}

impl Director {
    /// At the beginning of a situation: its first step holds from `now` on.
    #[must_use]
    pub fn new(situation: &Situation, virtual_clock: bool, now: Instant) -> Self {
        Director {
            steps: situation.steps.clone(),
            at: 0,
            began: now,
            segments_before: 0,
            virtual_clock,
            missed: Vec::new(),
        }
    }

    /// The step that holds now, if the situation has any.
    #[must_use]
    pub fn step(&self) -> Option<&Step> {
        self.steps.get(self.at)
    }

    /// When it began.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    /// It is the last one.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.at + 1 >= self.steps.len()
    }

    /// Steps that did not come to what they waited for.
    #[must_use]
    pub fn missed(&self) -> &[String] {
        &self.missed
    }

    /// Goes on to the next step if the one that holds is over; the step that then begins.
    pub fn advance(&mut self, f: &Facts) -> Option<&Step> {
        let step = self.steps.get(self.at).filter(|_| !self.is_last())?;
        let waited = f.now.since(self.began);
        let u = &step.until;
        let reached = u.received.is_some_and(|n| f.received >= n.0)
            || u.flight.is_some_and(|n| f.sent.saturating_sub(f.acked) >= n.0)
            || u.sent.is_some_and(|n| f.sent >= n.0)
            || u.segments.is_some_and(|n| f.segments - self.segments_before >= u64::from(n))
            || u.quiet.is_some_and(|d| f.now.since(self.began.max(f.last_segment)) >= d.0)
            || u.time(self.virtual_clock).is_some_and(|d| waited >= d);
        if !reached {
            if u.time(self.virtual_clock).is_some() || waited < step.at_most.0 {
                return None;
            }
            self.missed.push(step.name.clone());
        }
        self.at += 1;
        self.began = f.now;
        self.segments_before = f.segments;
        self.step()
    }

    /// When [`Director::advance`] may have something to say although nothing happens.
    #[must_use]
    pub fn next_at(&self, last_segment: Instant) -> Option<Instant> {
        let step = self.steps.get(self.at).filter(|_| !self.is_last())?;
        let u = &step.until;
        let quiet = u.quiet.map(|d| self.began.max(last_segment) + d.0);
        let time = u.time(self.virtual_clock).map(|d| self.began + d);
        [quiet, time.or(Some(self.began + step.at_most.0))].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use rightedge_stack::time::Duration;

    use super::*;

    fn situation(steps: &str) -> Situation {
        Situation::parse("test", &format!("name = \"t\"\nabout = \"x\"\n{steps}")).unwrap()
    }

    fn facts(ms: u64) -> Facts {
        let now = Instant::from_millis(ms);
        Facts { now, received: 0, sent: 0, acked: 0, segments: 0, last_segment: Instant::ZERO }
    }

    #[test]
    fn steps_end_when_any_of_their_conditions_holds() {
        let s = situation(
            "[[step]]\nname=\"a\"\nuntil={received=100}\n[[step]]\nname=\"b\"\nuntil={flight=50,quiet=\"10ms\"}\n[[step]]\nname=\"c\"\nuntil={segments=2}\n[[step]]\nname=\"d\"\n",
        );
        let mut d = Director::new(&s, false, Instant::ZERO);
        let name = |s: Option<&Step>| s.map(|s| s.name.clone());
        assert_eq!(d.advance(&Facts { received: 99, ..facts(1) }), None);
        assert_eq!(name(d.advance(&Facts { received: 100, segments: 7, ..facts(2) })).as_deref(), Some("b"));
        assert_eq!(d.advance(&Facts { sent: 149, acked: 100, ..facts(11) }), None);
        assert_eq!(d.next_at(Instant::from_millis(5)), Some(Instant::from_millis(15)));
        let quiet = Facts { last_segment: Instant::from_millis(5), segments: 9, ..facts(15) };
        assert_eq!(name(d.advance(&quiet)).as_deref(), Some("c"));
        assert_eq!(d.advance(&Facts { segments: 10, ..facts(16) }), None);
        assert_eq!(name(d.advance(&Facts { segments: 11, ..facts(17) })).as_deref(), Some("d"));
        assert!(d.is_last() && d.advance(&facts(1_000_000)).is_none() && d.next_at(Instant::ZERO).is_none());
        assert!(d.missed().is_empty());
    }

    #[test]
    fn what_is_waited_for_in_vain_is_noted() {
        let s =
            situation("[[step]]\nname=\"a\"\nuntil={received=100}\nat_most=\"1s\"\n[[step]]\nname=\"b\"\n");
        let mut d = Director::new(&s, false, Instant::ZERO);
        assert!(d.advance(&facts(999)).is_none());
        assert!(d.advance(&facts(1000)).is_some());
        assert_eq!(d.missed(), ["a"]);
    }

    #[test]
    fn virtual_time_may_be_longer() {
        let s = situation(
            "[[step]]\nname=\"a\"\nuntil={time=\"1s\",virtual_time=\"30m\"}\n[[step]]\nname=\"b\"\n",
        );
        let at = |v| Director::new(&s, v, Instant::ZERO).next_at(Instant::ZERO).unwrap();
        assert_eq!(at(false), Instant::ZERO + Duration::from_secs(1));
        assert_eq!(at(true), Instant::ZERO + Duration::from_secs(1800));
    }
}
