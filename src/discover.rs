//! Finding the cluster: flag or environment, else the runtime file of a cluster that
//! `quorate up` runs in `QUORATE_DATA` or here, else the server's default port on this machine.

use std::path::{Path, PathBuf};

use quorate_client::{Client, ConnectError, DEFAULT_PORT};

use crate::args::{DATA_DEFAULT, Find};
use crate::exit::Failure;
use crate::up::runtime::Runtime;

/// Where a cluster is said to be, and who says so.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) addresses: Vec<String>,
    pub(crate) source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// `--server`, or `QUORATE_SERVER`: clap prefers the flag.
    Given,
    RuntimeFile,
    Default,
}

impl Found {
    /// Looks in this order: what was given; the runtime file in `dir`; the default.
    ///
    /// # Errors
    /// When an address cannot be one, or the runtime file cannot be read.
    pub(crate) fn look(find: &Find, dir: &Path) -> Result<Self, Failure> {
        Self::look_in(&find.server, dir)
    }

    fn look_in(given: &[String], data: &Path) -> Result<Self, Failure> {
        let given: Vec<_> =
            given.iter().map(|text| text.trim()).filter(|t| !t.is_empty()).collect();
        if !given.is_empty() {
            let addresses = given.into_iter().map(quorate_client::parse_address);
            let addresses = addresses.collect::<Result<_, _>>().map_err(Failure::usage)?;
            return Ok(Self { addresses, source: Source::Given });
        }
        if let Some(runtime) = Runtime::read(data)? {
            return Ok(Self { addresses: runtime.addresses(), source: Source::RuntimeFile });
        }
        let addresses = vec![format!("127.0.0.1:{DEFAULT_PORT}")];
        Ok(Self { addresses, source: Source::Default })
    }

    /// Connects, or says what to do about it.
    ///
    /// # Errors
    /// When nobody answers.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let hint = self.hint();
        let connecting = Client::connect(&self.addresses);
        connecting.await.map_err(|error| match error {
            ConnectError::Unavailable { .. } => Failure::from(error).hint(hint),
            error => Failure::from(error),
        })
    }

    /// A client that has not asked anyone yet.
    ///
    /// # Errors
    /// When there are too many addresses.
    pub(crate) fn unconnected(&self) -> Result<Client, Failure> {
        Client::unconnected(&self.addresses).map_err(Failure::from)
    }

    /// What to do when nobody answers.
    pub(crate) fn hint(&self) -> &'static str {
        match self.source {
            Source::Given => "check --server or QUORATE_SERVER",
            Source::RuntimeFile => {
                "a runtime file names a cluster that does not run; start it again with \
                 `quorate up`, or name another with --server ADDR"
            }
            Source::Default => {
                "start a cluster with `quorate up`, or name one with --server ADDR or QUORATE_SERVER"
            }
        }
    }
}

/// Where the runtime file of a cluster on this machine would be: `QUORATE_DATA`, as for `quorate up`,
/// else `./.quorate`.
pub(crate) fn data_dir() -> PathBuf {
    let said = std::env::var_os("QUORATE_DATA").filter(|dir| !dir.is_empty());
    said.map_or_else(|| DATA_DEFAULT.into(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_wins_over_the_runtime_file_and_that_over_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let found = Found::look_in(&[], dir.path()).unwrap();
        assert_eq!(
            (found.source, found.addresses[0].as_str()),
            (Source::Default, "127.0.0.1:4747")
        );

        Runtime::example().write(dir.path()).unwrap();
        let found = Found::look_in(&[], dir.path()).unwrap();
        assert_eq!(found.source, Source::RuntimeFile);
        assert_eq!(found.addresses, Runtime::example().addresses());

        let given = ["10.0.0.1".to_owned(), " db:5000 ".to_owned()];
        let found = Found::look_in(&given, dir.path()).unwrap();
        assert_eq!(found.source, Source::Given);
        assert_eq!(found.addresses, ["10.0.0.1:4747", "db:5000"]);
    }

    #[test]
    fn what_is_no_address_is_wrong_usage() {
        let failure = Found::look_in(&["a:b:c".to_owned()], Path::new(".")).unwrap_err();
        assert_eq!(failure.code, crate::exit::Code::Usage);
    }
}
