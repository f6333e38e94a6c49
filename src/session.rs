//! Doing the steps of scripts, of the shell and of single commands on one client.

use std::path::PathBuf;
use std::time::Duration;

use quorate_client::{ChangeOptions, Client, ReadOptions};
use tokio::sync::{mpsc, oneshot};

use crate::args::{Ask, How};
use crate::exit::{Code, Failure};
use crate::output::{Said, data, talk};
use crate::script::{HELP, Step, Whom};
use crate::status::Snapshot;
use crate::value::take_value;

/// How long `status` in a session waits for those that do not answer.
const STATUS_PATIENCE: Duration = Duration::from_secs(1);

/// A client with the ways of its user.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) ask: Ask,
    pub(crate) how: How,
    /// Where the runtime file of a cluster on this machine would be.
    pub(crate) dir: PathBuf,
    /// Where this session runs inside `quorate up`: the way to its processes.
    pub(crate) control: Option<Control>,
}

/// What a session may ask of the cluster's processes.
#[derive(Debug)]
pub(crate) enum Order {
    Kill(Whom),
    Restart(Whom),
}

/// Carries orders to `quorate up`, and what came of them back.
pub(crate) type Control = mpsc::Sender<(Order, oneshot::Sender<Result<String, Failure>>)>;

/// What becomes of the session after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Go,
    Quit,
}

impl Session {
    /// Does one step of a script or of the shell and prints what it came to.
    ///
    /// # Errors
    /// When it was not done, or nobody knows. A missing key is an answer.
    pub(crate) async fn perform(&self, step: Step) -> Result<Next, Failure> {
        let (key, said) = match step {
            Step::Read { key } => {
                let said = self.read(&key).await?;
                (key, said)
            }
            Step::Write { key, value } => {
                let said = self.write(&key, take_value(&value, false)?).await?;
                (key, said)
            }
            Step::Delete { key } => {
                let said = self.delete(&key).await?;
                (key, said)
            }
            Step::Quit => return Ok(Next::Quit),
            other => return self.perform_other(other).await.map(|()| Next::Go),
        };
        if self.ask.verbose {
            talk(&said.origin());
        }
        data(&said.in_turn(self.ask.output, &key))?;
        Ok(Next::Go)
    }

    /// The steps that concern no key.
    async fn perform_other(&self, step: Step) -> Result<(), Failure> {
        match step {
            Step::Sleep { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
            Step::Status => self.snapshot().await.print(self.ask.output)?,
            Step::Nodes => self.snapshot().await.print_nodes(self.ask.output)?,
            Step::View => self.snapshot().await.print_view(self.ask.output)?,
            Step::Kill { whom } => self.order(Order::Kill(whom)).await?,
            Step::Restart { whom } => self.order(Order::Restart(whom)).await?,
            // A person's question in a shell, and no data.
            Step::Help => talk(HELP.trim_end()),
            Step::Read { .. } | Step::Write { .. } | Step::Delete { .. } | Step::Quit => {
                unreachable!("done by perform")
            }
        }
        Ok(())
    }

    /// Ends a command that stands by itself: prints its data, and gives its code.
    ///
    /// # Errors
    /// When it cannot be printed.
    pub(crate) fn conclude(&self, key: &str, said: &Said) -> Result<Code, Failure> {
        let bytes = said.alone(self.ask.output, key);
        self.conclude_with(key, said, bytes.as_deref())
    }

    /// As [`Session::conclude`], with these bytes for data.
    ///
    /// # Errors
    /// When they cannot be printed.
    pub(crate) fn conclude_with(
        &self,
        key: &str,
        said: &Said,
        bytes: Option<&[u8]>,
    ) -> Result<Code, Failure> {
        if self.ask.verbose {
            talk(&said.origin());
        }
        bytes.map(data).transpose()?;
        if said.is_missing() {
            talk(&format!("no such key: {key}"));
            return Ok(Code::Missing);
        }
        Ok(Code::Done)
    }

    pub(crate) async fn read(&self, key: &str) -> Result<Said, Failure> {
        let options =
            ReadOptions::default().level(self.how.level.into()).deadline(self.ask.timeout);
        Ok(Said::Read(self.client.read_with(key, options).await?))
    }

    pub(crate) async fn write(&self, key: &str, value: Vec<u8>) -> Result<Said, Failure> {
        Ok(Said::Written(self.client.write_with(key, value, self.change()).await?))
    }

    pub(crate) async fn delete(&self, key: &str) -> Result<Said, Failure> {
        Ok(Said::Deleted(self.client.delete_with(key, self.change()).await?))
    }

    fn change(&self) -> ChangeOptions {
        ChangeOptions::default().deadline(self.ask.timeout)
    }

    async fn snapshot(&self) -> Snapshot {
        Snapshot::take(&self.client, &self.dir, STATUS_PATIENCE).await
    }

    async fn order(&self, order: Order) -> Result<(), Failure> {
        let Some(control) = &self.control else {
            return Err(Failure::usage(
                "this shell runs no processes; use `quorate up kill N` and `quorate up restart N` \
                 where the cluster was started",
            ));
        };
        let (done, outcome) = oneshot::channel();
        let gone = || Failure::unavailable("the cluster is being stopped");
        control.send((order, done)).await.map_err(|_| gone())?;
        talk(&outcome.await.map_err(|_| gone())??);
        Ok(())
    }
}
