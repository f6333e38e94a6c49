//! Tasks that use the state behind the core's back: copies that come in, pages that go out, scrubs.
//!
//! The node may open its state anew in the same process, right after it ended. So its end waits for
//! them: nobody may have the state open then.

use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};

/// How long the end of a node waits for a task that waits for the disk.
const END_WAIT: Duration = Duration::from_secs(10);

/// The tasks that run. Bounded by who starts them: one copy, one scrub, one page for each session.
#[derive(Default)]
pub(super) struct Background(JoinSet<()>);

impl Background {
    /// Runs a task that waits for the network; it is dropped where it waits when the node ends.
    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.0.spawn(task)
    }

    /// Runs something that waits for the disk, on a thread of its own.
    pub(super) fn spawn_blocking(&mut self, task: impl FnOnce() + Send + 'static) {
        self.0.spawn_blocking(task);
    }

    /// Forgets those that ended.
    pub(super) fn reap(&mut self) {
        while self.0.try_join_next().is_some() {}
    }

    /// Ends all of them, and waits until they have let go of what they use.
    pub(super) async fn end(&mut self) {
        self.0.abort_all();
        let ended = async { while self.0.join_next().await.is_some() {} };
        if tokio::time::timeout(END_WAIT, ended).await.is_err() {
            tracing::warn!("the disk takes long; not everything that reads the state has ended");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::{Arc, mpsc};

    use super::*;

    #[tokio::test]
    async fn the_end_waits_until_nobody_uses_the_state() {
        let state = Arc::new(());
        let mut background = Background::default();
        let mine = Arc::clone(&state);
        background.spawn(async move {
            std::future::pending::<()>().await;
            drop(mine);
        });
        let (go, gone) = mpsc::channel::<()>();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let mine = Arc::clone(&state);
        background.spawn_blocking(move || {
            begun.send(()).unwrap();
            gone.recv().unwrap();
            drop(mine);
        });
        begins.await.unwrap();
        let mut end = Box::pin(background.end());
        let waits = std::future::poll_fn(|context| {
            std::task::Poll::Ready(end.as_mut().poll(context).is_pending())
        });
        assert!(waits.await, "the disk has not answered");
        go.send(()).unwrap();
        end.await;
        assert_eq!(Arc::strong_count(&state), 1);
    }
}
