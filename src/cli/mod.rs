//! The command line: one file per command. Prints answers to standard output, everything else to
//! standard error. Exit codes: 0 done, 1 refused, 2 wrong usage, 3 no server.

mod apply;
mod bench;
mod client;
mod demo;
mod output;
mod serve;
mod settings;
mod sink;
mod stream;
mod table;
mod token;
mod topic;
mod webhook;
mod wire;

use std::process::ExitCode;

use clap::{ArgMatches, Command};

use client::Failure;

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 refused by the server, 2 wrong usage or configuration, 3 no server there.

Start here:
  floe serve                                     a broker with embedded defaults
  echo '{\"id\":1}' | kcat -b 127.0.0.1:9092 -t orders -P
  curl http://127.0.0.1:8080/api/v1/topics/orders/events -d '{\"id\":2}'
  floe table list                                what became of it
  floe token create admin                        from now on every request needs a token";

fn command() -> Command {
    Command::new("floe")
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "Streams in, Iceberg out: one binary from Kafka producers and HTTP to Iceberg tables",
        )
        .after_help(AFTER_HELP)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(serve::command())
        .subcommand(demo::command())
        .subcommand(topic::command())
        .subcommand(table::command())
        .subcommand(sink::command())
        .subcommand(apply::command())
        .subcommand(stream::command())
        .subcommand(token::command())
        .subcommand(webhook::command())
        .subcommand(bench::command())
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::Refused(format!("cannot start: {error}"))),
    };
    match runtime.block_on(dispatch(&matches)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

async fn dispatch(matches: &ArgMatches) -> Result<(), Failure> {
    match matches.subcommand() {
        Some(("serve", matches)) => serve::run(matches).await,
        Some(("demo", matches)) => demo::run(matches).await,
        Some(("topic", matches)) => topic::run(matches).await,
        Some(("table", matches)) => table::run(matches).await,
        Some(("sink", matches)) => sink::run(matches).await,
        Some(("apply", matches)) => apply::run(matches).await,
        Some(("stream", matches)) => stream::run(matches).await,
        Some(("token", matches)) => token::run(matches).await,
        Some(("webhook", matches)) => webhook::run(matches).await,
        Some(("bench", matches)) => bench::run(matches).await,
        _ => Err(Failure::Usage("see floe --help".to_owned())),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    output::error(failure.text());
    ExitCode::from(failure.exit_code())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
