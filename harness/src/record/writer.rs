//! The thread that writes: the run loop hands batches over and goes on.
//!
//! Few batches may be under way; then the run loop waits, so that memory stays bounded however slow the disk is. Emptied
//! batches come back to be filled again. The first error ends the thread and meets the run loop at its next word.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};

/// Batches that wait at most, besides the one being written.
const WAITING: usize = 8;

/// Where batches end up.
pub(super) trait Sink: Send + 'static {
    /// What is handed over.
    type Batch: Default + Send + 'static;
    /// What is known at the end.
    type End: Send + 'static;

    /// Takes everything out of a batch.
    fn take(&mut self, batch: &mut Self::Batch) -> Result<()>;
    /// Hands everything so far to the operating system.
    fn flush(&mut self) -> Result<()>;
    /// Writes what is left.
    fn end(self) -> Result<Self::End>;
}

enum Message<B> {
    Batch(B),
    Flush,
    /// The same, and say so.
    FlushAndAnswer(SyncSender<()>),
}

/// The run loop's end of it.
pub(super) struct Writer<S: Sink> {
    to: Option<SyncSender<Message<S::Batch>>>,
    emptied: Receiver<S::Batch>,
    thread: Option<JoinHandle<Result<S::End>>>,
}

impl<S: Sink> Writer<S> {
    /// Starts the thread.
    ///
    /// # Errors
    /// There is none to be had.
    pub(super) fn start(sink: S) -> Result<Self> {
        let (to, from) = sync_channel(WAITING);
        let (give_back, emptied) = sync_channel(WAITING + 2);
        let thread = std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || serve(sink, &from, &give_back))
            .context("cannot start the thread that writes the run's files")?;
        Ok(Writer { to: Some(to), emptied, thread: Some(thread) })
    }

    /// Hands a batch over; the one that it leaves behind is empty.
    ///
    /// # Errors
    /// Something handed over before could not be written.
    pub(super) fn hand_over(&mut self, batch: &mut S::Batch) -> Result<()> {
        let next = self.emptied.try_recv().unwrap_or_default();
        self.say(Message::Batch(std::mem::replace(batch, next)))
    }

    /// Lets everything handed over so far get to the operating system soon.
    ///
    /// # Errors
    /// Something handed over before could not be written.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.say(Message::Flush)
    }

    /// Waits until everything handed over so far is with the operating system.
    ///
    /// # Errors
    /// It could not be written.
    pub(super) fn flush_and_wait(&mut self) -> Result<()> {
        let (answer, done) = sync_channel(1);
        self.say(Message::FlushAndAnswer(answer))?;
        done.recv().map_err(|_| self.failure())
    }

    /// Ends the thread once everything is written.
    ///
    /// # Errors
    /// Something could not be written.
    pub(super) fn end(&mut self) -> Result<S::End> {
        self.to = None;
        let Some(thread) = self.thread.take() else {
            return Err(anyhow!("the run's files cannot be written any more"));
        };
        thread.join().unwrap_or_else(|_| Err(anyhow!("the thread that writes the run's files panicked")))
    }

    /// It has ended, or failed.
    pub(super) fn is_over(&self) -> bool {
        self.thread.is_none()
    }

    fn say(&mut self, message: Message<S::Batch>) -> Result<()> {
        match self.to.as_ref().map(|to| to.send(message)) {
            Some(Ok(())) => Ok(()),
            _ => Err(self.failure()),
        }
    }

    fn failure(&mut self) -> anyhow::Error {
        self.end().err().unwrap_or_else(|| anyhow!("the thread that writes the run's files ended early"))
    }
}

impl<S: Sink> Drop for Writer<S> {
    fn drop(&mut self) {
        if self.thread.is_some()
            && let Err(e) = self.end()
        {
            tracing::warn!("{e:#}");
        }
    }
}

fn serve<S: Sink>(
    mut sink: S,
    from: &Receiver<Message<S::Batch>>,
    give_back: &SyncSender<S::Batch>,
) -> Result<S::End> {
    for message in from {
        match message {
            Message::Batch(mut batch) => {
                sink.take(&mut batch)?;
                // One too many is simply given up.
                let _ = give_back.try_send(batch);
            }
            Message::Flush => sink.flush()?,
            Message::FlushAndAnswer(answer) => {
                sink.flush()?;
                // Who asked may have gone.
                let _ = answer.send(());
            }
        }
    }
    sink.end()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps what it is given; fails at a 13; waits for the gate at every batch.
    #[derive(Clone, Default)]
    struct Heap {
        written: Arc<Mutex<Vec<u32>>>,
        flushed: Arc<AtomicUsize>,
        gate: Arc<Mutex<()>>,
    }

    impl Sink for Heap {
        type Batch = Vec<u32>;
        type End = usize;

        fn take(&mut self, batch: &mut Vec<u32>) -> Result<()> {
            drop(self.gate.lock().unwrap());
            for n in batch.drain(..) {
                anyhow::ensure!(n != 13, "cannot write 13");
                self.written.lock().unwrap().push(n);
            }
            Ok(())
        }

        fn flush(&mut self) -> Result<()> {
            self.flushed.store(self.written.lock().unwrap().len(), Ordering::SeqCst);
            Ok(())
        }

        fn end(mut self) -> Result<usize> {
            self.flush()?;
            Ok(self.flushed.load(Ordering::SeqCst))
        }
    }

    #[test]
    fn order_is_kept_and_a_flush_waits_for_what_came_before() {
        let heap = Heap::default();
        let mut w = Writer::start(heap.clone()).unwrap();
        for n in 100..1100 {
            let mut batch = vec![n, n + 10_000];
            w.hand_over(&mut batch).unwrap();
            assert!(batch.is_empty());
        }
        w.flush_and_wait().unwrap();
        assert_eq!(heap.flushed.load(Ordering::SeqCst), 2000);
        let expected: Vec<u32> = (100..1100).flat_map(|n| [n, n + 10_000]).collect();
        assert_eq!(*heap.written.lock().unwrap(), expected);
        assert_eq!(w.end().unwrap(), 2000);
        assert!(w.hand_over(&mut vec![1]).is_err() && w.end().is_err());
    }

    #[test]
    fn what_was_handed_over_is_written_when_it_is_dropped() {
        let heap = Heap::default();
        let mut w = Writer::start(heap.clone()).unwrap();
        w.hand_over(&mut vec![1, 2, 3]).unwrap();
        drop(w);
        assert_eq!(heap.flushed.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn an_error_surfaces_at_the_next_word_or_at_the_end() {
        let mut w = Writer::start(Heap::default()).unwrap();
        w.hand_over(&mut vec![1, 13, 2]).unwrap();
        assert_eq!(w.flush_and_wait().unwrap_err().to_string(), "cannot write 13");
        assert!(w.hand_over(&mut vec![1]).unwrap_err().to_string().contains("any more"));
        let mut w = Writer::start(Heap::default()).unwrap();
        w.hand_over(&mut vec![13]).unwrap();
        assert_eq!(w.end().unwrap_err().to_string(), "cannot write 13");
    }

    #[test]
    fn a_slow_sink_makes_the_run_loop_wait() {
        let heap = Heap::default();
        let shut = heap.gate.lock().unwrap();
        let handed = Arc::new(AtomicUsize::new(0));
        let loop_ = std::thread::spawn({
            let (heap, handed) = (heap.clone(), Arc::clone(&handed));
            move || {
                let mut w = Writer::start(heap).unwrap();
                for n in 100..200 {
                    w.hand_over(&mut vec![n]).unwrap();
                    handed.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        while handed.load(Ordering::SeqCst) <= WAITING {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(handed.load(Ordering::SeqCst), WAITING + 1);
        drop(shut);
        loop_.join().unwrap();
        assert_eq!(heap.flushed.load(Ordering::SeqCst), 100);
    }
}
