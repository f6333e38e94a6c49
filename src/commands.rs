//! The commands that talk to a cluster that runs already.

use std::time::Duration;

use quorate_client::Client;
use quorate_protocol::settings::Settings;

use crate::args::{
    Ask, Delete, Format, How, Level, Reach, Read, Run, SettingsChange, Shell, Status, Write,
};
use crate::discover::{Found, data_dir};
use crate::exit::{Code, Failure};
use crate::output::{data, talk};
use crate::script::{is_one_line_step, parse_one_line_step};
use crate::session::Session;
use crate::shell;
use crate::status::Snapshot;
use crate::value::{read_file, take_value};

/// How often `status --watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) async fn read(typed: Read) -> Result<Code, Failure> {
    let session = open(&typed.reach, typed.ask, typed.how).await?;
    let said = session.read(&typed.key).await?;
    match typed.raw {
        true => session.conclude_with(&typed.key, &said, said.raw()),
        false => session.conclude(&typed.key, &said),
    }
}

pub(crate) async fn write(typed: Write) -> Result<Code, Failure> {
    let value = take_value(&typed.value, true)?;
    let session = open(&typed.reach, typed.ask, How { level: Level::Majority }).await?;
    session.conclude(&typed.key, &session.write(&typed.key, value).await?)
}

pub(crate) async fn delete(typed: Delete) -> Result<Code, Failure> {
    let session = open(&typed.reach, typed.ask, How { level: Level::Majority }).await?;
    session.conclude(&typed.key, &session.delete(&typed.key).await?)
}

pub(crate) async fn shell(typed: Shell) -> Result<Code, Failure> {
    let session = open(&typed.reach, typed.ask, typed.how).await?;
    Ok(shell::run(&session, shell::input(), shell::is_interactive()).await)
}

pub(crate) async fn run(typed: Run) -> Result<Code, Failure> {
    let Run { script, how, ask, reach } = typed;
    if script.iter().all(|part| is_one_line_step(part)) {
        // All are checked before the first is done.
        let steps = script.iter().map(|part| parse_one_line_step(part));
        let steps = steps.collect::<Result<Vec<_>, _>>().map_err(Failure::usage)?;
        let session = open(&reach, ask, how).await?;
        return Ok(shell::run_steps(&session, steps).await);
    }
    let [file] = script.as_slice() else {
        return Err(Failure::usage(
            "give one file, or steps such as R,KEY W,KEY,VALUE D,KEY T,MS, but not both",
        ));
    };
    if file == "-" {
        let session = open(&reach, ask, how).await?;
        return Ok(shell::run(&session, shell::standard_input(), false).await);
    }
    let script = read_file(file).map_err(|failure| match file.contains(',') {
        true => failure.hint("a step begins with R, W, D or T, as in R,KEY"),
        false => failure,
    })?;
    let session = open(&reach, ask, how).await?;
    Ok(shell::run(&session, shell::lines_of(script), false).await)
}

pub(crate) async fn status(typed: Status) -> Result<Code, Failure> {
    let dir = data_dir();
    let found = Found::look(&typed.reach.find, &dir)?;
    let client = found.unconnected()?;
    loop {
        let snapshot = Snapshot::take(&client, &dir, typed.timeout).await;
        let shown = snapshot.print(typed.output).map_err(|failure| match snapshot.reached() {
            false if !failure.is_quiet() => failure.hint(found.hint()),
            _ => failure,
        });
        match shown {
            shown if !typed.watch => return shown.map(|()| Code::Done),
            Err(failure) if failure.is_quiet() => return Err(failure),
            Err(failure) => talk(&failure.to_string()),
            Ok(()) => {}
        }
        if typed.output == Format::Text {
            data(b"\n")?;
        }
        tokio::select! {
            () = tokio::time::sleep(WATCH_INTERVAL) => {}
            _ = tokio::signal::ctrl_c() => return Ok(Code::Done),
        }
    }
}

pub(crate) async fn settings(typed: crate::args::Settings) -> Result<Code, Failure> {
    let crate::args::Settings { change, timeout, output, reach } = typed;
    let client: Client = Found::look(&reach.find, &data_dir())?.connect().await?;
    let settings = match change {
        None => client.settings(timeout).await?,
        Some(SettingsChange::Set { name, value }) => {
            client.set_setting(&name, &value, timeout).await?
        }
    };
    data(&show_settings(&settings, output))?;
    Ok(Code::Done)
}

async fn open(reach: &Reach, ask: Ask, how: How) -> Result<Session, Failure> {
    let dir = data_dir();
    let client = Found::look(&reach.find, &dir)?.connect().await?;
    Ok(Session { client, ask, how, dir, control: None })
}

/// The settings as `settings set` takes them: one a line, or an object.
fn show_settings(settings: &Settings, format: Format) -> Vec<u8> {
    let all: Vec<_> = settings.iter().collect();
    let text = match format {
        Format::Text => {
            let width = all.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            let lines = all.iter().map(|(name, value)| {
                let line = format!("{name:width$}  {value}");
                format!("{}\n", line.trim_end())
            });
            lines.collect()
        }
        Format::Json => {
            let fields = all.into_iter().map(|(name, value)| (name.to_owned(), value.into()));
            format!("{}\n", serde_json::Value::Object(fields.collect()))
        }
    };
    text.into_bytes()
}
