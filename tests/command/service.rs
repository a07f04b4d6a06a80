//! How commands find their service and authenticate to it, and what they say if they can't.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::{
    run::sentence,
    support::{
        cli::{Cli, Running},
        port::Port,
        program::Program,
    },
};

const TOKEN: &str = "a-token-for-these-tests-alone";

/// Writes the configuration file.
fn configure(cli: &Cli, text: &str) {
    let directory = cli.home().join("config/actix-sandbox");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("config.toml"), text).unwrap();
}

/// Every command that needs a service, with arguments that are right.
const COMMANDS: [&[&str]; 3] = [&["create"], &["list"], &["run", "-c", "1"]];

#[test]
fn the_configuration_file_names_the_service() {
    let server = Program::start(&[]);
    let cli = Cli::new("");
    configure(&cli, &format!("[service]\nurl = \"{}\"\n", server.url));
    let id = cli.create();
    assert_eq!(cli.stdout_of(&["kill", &id]), format!("killed {id}\n"));
    // The flag and the variable come first.
    configure(&cli, "[service]\nurl = \"http://127.0.0.1:1\"\n");
    cli.stdout_of(&["list", "--url", &server.url]);
    assert_eq!(cli.run(&["list"]).status, 1);
}

#[test]
fn a_wrong_configuration_file_is_refused_with_its_line() {
    let cli = Cli::new("");
    for (text, said) in [
        ("[service]\nurl = 1\n", "line 2"),
        ("[service]\nurll = \"x\"\n", "urll"),
        ("[service", "line 1"),
        ("[service]\n", "url"),
    ] {
        configure(&cli, text);
        let ran = cli.run(&["list"]);
        assert_eq!(ran.status, 1);
        let sentence = sentence(&ran);
        assert!(sentence.contains("config.toml"), "{sentence}");
        assert!(sentence.contains(said), "{text}: {sentence}");
    }
    configure(&cli, "");
    let file = cli.home().join("config/actix-sandbox/config.toml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let ran = cli.run(&["list"]);
    assert!(sentence(&ran).contains("other users may write"), "{ran:?}");
}

#[test]
fn without_a_service_the_command_that_starts_one_is_named() {
    let cli = Cli::new("");
    for arguments in [&["create"][..], &["list"]] {
        let ran = cli.run(arguments);
        assert_eq!((ran.status, &*ran.stdout), (1, ""));
        let said = sentence(&ran);
        assert!(
            said.contains("`--url`") && said.contains("SANDBOX_URL"),
            "{said}"
        );
        assert!(said.contains("`actix-sandbox serve"), "{said}");
    }
}

#[test]
fn a_service_that_cannot_be_reached_is_one_sentence() {
    let port = Port::reserve();
    let address = port.address();
    for (url, said) in [
        (&*format!("http://{address}/secret-path"), "refused"),
        ("http://host.invalid/secret-path", "host.invalid"),
        ("ftp://127.0.0.1/secret-path", "ws"),
        ("nonsense", "URL"),
    ] {
        let cli = Cli::new(url);
        for arguments in COMMANDS {
            let ran = cli.run(arguments);
            assert!([1, 125].contains(&ran.status), "{ran:?}");
            let sentence = sentence(&ran);
            assert!(sentence.contains(said), "{url}: {sentence}");
            assert!(!sentence.contains("secret-path"), "{sentence}");
        }
    }
}

#[test]
fn a_peer_that_is_no_sandbox_server_is_one_sentence() {
    let server = Program::start(&[]);
    // The server answers 404 without its secret.
    let cli = Cli::new(&format!("http://{}/not-the-secret", server.address()));
    for arguments in COMMANDS {
        let ran = cli.run(arguments);
        assert!([1, 125].contains(&ran.status), "{ran:?}");
        assert!(sentence(&ran).contains("404"), "{ran:?}");
    }
}

#[test]
fn a_token_is_needed_and_a_wrong_one_refused() {
    let token = tempfile::NamedTempFile::new().unwrap();
    fs::write(token.path(), TOKEN).unwrap();
    let file = token.path().to_str().unwrap();
    let server = Program::start(&["--token-file", file]);
    let cli = Cli::new(&server.url);
    for arguments in COMMANDS {
        let ran = cli.run(arguments);
        assert!([1, 125].contains(&ran.status), "{ran:?}");
        assert!(sentence(&ran).contains("`--token-file`"), "{ran:?}");
        let mut command = cli.command(arguments);
        command.env("ACTIX_SANDBOX_TOKEN", "another-token-of-this-test");
        let ran = Running::start(command).end();
        assert!([1, 125].contains(&ran.status), "{ran:?}");
        assert!(!sentence(&ran).contains("another-token"), "{ran:?}");
    }
    let id = cli.stdout_of(&["create", "--token-file", file]);
    // The file is remembered with the sandbox.
    assert_eq!(cli.stdout_of(&["exec", id.trim(), "echo", "1"]), "1\n");
    cli.stdout_of(&["kill", "--all", "--mine"]);
    let ran = cli.run(&["list", "--token-file", "missing"]);
    assert!(sentence(&ran).contains("missing"), "{ran:?}");
}

#[test]
fn help_and_completions_cover_every_command() {
    let cli = Cli::new("");
    let help = cli.stdout_of(&["--help"]);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<_> = commands
        .take_while(|line| !line.is_empty())
        // Further lines of a description are indented more.
        .filter_map(|line| line.strip_prefix("  ").filter(|it| !it.starts_with(' ')))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.len() > 12, "{help}");
    for command in commands {
        let help = cli.stdout_of(&[command, "--help"]);
        assert!(help.contains("Usage: "), "{help}");
        let wide = help.lines().find(|line| line.chars().count() > 100);
        assert_eq!(wide, None, "{command}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let said = cli.stdout_of(&["completions", shell]);
        assert!(said.contains("checkpoint-when-idle"), "{shell}");
    }
    let completed = |words: &str| {
        let script = format!(
            "source <(\"$0\" completions bash); COMP_WORDS=({words}); \
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _actix__sandbox actix-sandbox \"${{COMP_WORDS[COMP_CWORD]}}\" \
             \"${{COMP_WORDS[COMP_CWORD-1]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        let mut bash = std::process::Command::new("bash");
        bash.args(["-c", &script, env!("CARGO_BIN_EXE_actix-sandbox")]);
        cli.adopt(&mut bash);
        let ran = Running::start(bash).end();
        assert_eq!(ran.status, 0, "{ran:?}");
        ran.stdout.trim().to_owned()
    };
    assert_eq!(completed("actix-sandbox ru"), "run");
    assert_eq!(completed("actix-sandbox run --back"), "--backend");
    assert_eq!(completed("actix-sandbox bench com"), "compare");
    cli.stdout_of(&["man", "pages"]);
    let page = fs::read_to_string(cli.home().join("pages/actix-sandbox-run.1")).unwrap();
    assert!(page.contains("upload"), "{page}");
    let ran = cli.run(&["man", "/dev/null/pages"]);
    assert!(sentence(&ran).contains("/dev/null/pages"), "{ran:?}");
    assert!(cli.stdout_of(&["--version"]).starts_with("actix-sandbox "));
}
