//! The page in headless Chromium.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use actix_sandbox::test_util::Proxy;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::{
    application::Application,
    browser::{Browser, Tab},
    support::backend,
    visitor::{Visitor, http},
};

/// Opens the page of an application. Returns `None` if the application or Chromium is missing.
async fn open() -> Option<(Application, Tab)> {
    let application = Application::start().await?;
    let tab = open_at(application.address()).await?;
    Some((application, tab))
}

async fn open_at(address: SocketAddr) -> Option<Tab> {
    let mut tab = Browser::start()
        .await?
        .open(&format!("http://{address}/"))
        .await;
    tab.wait_for("document.getElementById('status')?.textContent === 'Connected'")
        .await;
    Some(tab)
}

impl Tab {
    /// Puts code into the editor and starts it.
    async fn run(&mut self, language: &str, code: &str) {
        let (language, code) = (json!(language), json!(code));
        self.evaluate(&format!(
            "document.getElementById('language').value = {language};
             document.getElementById('editor').value = {code}"
        ))
        .await;
        self.click("#run").await;
    }

    async fn output(&mut self) -> String {
        let output = self
            .evaluate("document.getElementById('output').textContent")
            .await;
        output.as_str().unwrap().to_owned()
    }

    async fn wait_for_output(&mut self, text: &str) {
        let text = json!(text);
        self.wait_for(&format!(
            "document.getElementById('output').textContent.includes({text})"
        ))
        .await;
    }

    /// Waits until the terminal shows this text.
    async fn wait_for_screen(&mut self, text: &str) {
        let text = json!(text);
        self.wait_for(&format!(
            "document.getElementById('terminal').innerText.includes({text})"
        ))
        .await;
    }

    async fn open_terminal(&mut self) {
        self.click("#show-terminal").await;
        self.wait_for("document.getElementById('terminal').innerText.match(/[$#]\\s*$/)")
            .await;
    }

    async fn enter(&mut self, line: &str) {
        self.type_text(line).await;
        self.press("Enter").await;
    }
}

#[actix::test]
async fn both_outputs_appear_live_and_a_program_can_be_stopped() {
    let Some((_application, mut tab)) = open().await else {
        return;
    };
    tab.run("bash", "echo out; echo err >&2; echo ä '<b>'; sleep 1000")
        .await;
    tab.wait_for("document.querySelector('#output .stdout')?.textContent.includes('out')")
        .await;
    tab.wait_for("document.querySelector('#output .stderr')?.textContent.includes('err')")
        .await;
    tab.wait_for_output("ä <b>\n").await;
    tab.click("#stop").await;
    tab.wait_for_output("The program was stopped.").await;
    tab.run("python", "import sys; sys.exit(3)").await;
    tab.wait_for_output("The program exited with code 3.").await;
}

#[actix::test]
async fn a_cut_of_three_seconds_loses_and_repeats_no_line() {
    let Some(application) = Application::start().await else {
        return;
    };
    let mut proxy = Proxy::builder(application.address()).start().await.unwrap();
    let Some(mut tab) = open_at(proxy.address()).await else {
        return;
    };
    let code = "import time
for number in range(400):
    print('line', number, flush=True)
    time.sleep(0.02)";
    tab.run("python", code).await;
    tab.wait_for_output("line 50\n").await;
    proxy.refuse().await;
    proxy.cut();
    let status = "document.getElementById('status').textContent";
    tab.wait_for(&format!("{status}.startsWith('Connection lost')"))
        .await;
    // The length of the cut is what this tests. The program goes on meanwhile.
    tokio::time::sleep(Duration::from_secs(3)).await;
    proxy.accept().await.unwrap();
    proxy.pass();
    tab.wait_for_output("The program exited with code 0.").await;
    let mut wanted: String = (0..400).map(|number| format!("line {number}\n")).collect();
    wanted += "The program exited with code 0.\n";
    assert_eq!(tab.output().await, wanted);
    assert_eq!(application.sandboxes().await, 1);

    // A connection that only stalls. The close frame of the page arrives late, and kills nothing.
    proxy.stall();
    tab.wait_for(&format!("{status}.startsWith('Connection lost')"))
        .await;
    proxy.cut();
    proxy.pass();
    tab.wait_for(&format!("{status} === 'Connected'")).await;
    tab.run("bash", "echo still here").await;
    tab.wait_for_output("still here\n").await;
    assert_eq!(
        tab.evaluate("document.getElementById('notice').hidden")
            .await,
        true
    );

    // The keys that a user types meanwhile.
    tab.open_terminal().await;
    tab.enter("echo rea''dy; read -r line; echo ${#line} keys")
        .await;
    tab.wait_for_screen("\nready").await;
    proxy.refuse().await;
    proxy.cut();
    tab.wait_for(&format!("{status}.startsWith('Connection lost')"))
        .await;
    tab.evaluate("for (let key = 0; key < 120; key += 1) terminal.press({ key: 'k' })")
        .await;
    tab.press("Enter").await;
    let commands = "connection.commands.filter(({ number }) => number > connection.lastSent)";
    assert_eq!(tab.evaluate(&format!("{commands}.length")).await, 1);
    proxy.accept().await.unwrap();
    proxy.pass();
    tab.wait_for_screen("\n120 keys").await;
}

#[actix::test]
async fn a_page_whose_sandbox_is_gone_starts_a_new_one() {
    let Some((mut application, mut tab)) = open().await else {
        return;
    };
    let address = application.address();
    let id = tab.evaluate("connection.visitor").await;
    let other = Visitor::hello(address, id.clone(), 0).await.unwrap().stay();
    let notice = "document.getElementById('notice').textContent";
    tab.wait_for(&format!("{notice}.includes('open in another tab')"))
        .await;
    tab.click("#notice button").await;
    tab.wait_for("document.getElementById('status')?.textContent === 'Connected'")
        .await;
    let new = tab.evaluate("connection.visitor").await;
    assert_ne!(new, id);
    other.close().await;

    application.stop_server().await;
    tab.wait_for(&format!("{notice}.includes('The sandbox has ended')"))
        .await;
    // The page doesn't come back, so the application forgets the visitor at once.
    let header = format!("x-visitor: {}\r\n", new.as_str().unwrap());
    let forgotten = tokio::time::timeout(Duration::from_secs(20), async {
        while !http(address, "GET /files", &header, b"")
            .await
            .0
            .contains("403")
        {}
    });
    forgotten.await.unwrap();
}

#[actix::test]
async fn a_program_sorts_an_upload_which_is_then_downloaded() {
    let Some((_application, mut tab)) = open().await else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("in put.txt");
    std::fs::write(&file, "pear\napple\nkiwi\n").unwrap();
    tab.choose_file("#chosen", &file).await;
    tab.wait_for("document.getElementById('list').textContent.includes('in put.txt')")
        .await;
    tab.run("bash", "sort 'in put.txt' > sorted.txt").await;
    tab.wait_for("document.getElementById('list').textContent.includes('sorted.txt')")
        .await;
    tab.click("[aria-label=\"Download sorted.txt\"]").await;
    assert_eq!(tab.downloaded("sorted.txt").await, "apple\nkiwi\npear\n");
}

#[actix::test]
async fn vi_edits_a_file_in_the_terminal() {
    let Some((_application, mut tab)) = open().await else {
        return;
    };
    tab.open_terminal().await;
    tab.enter("printf 'from the shell\\n' > notes; vi -u NONE notes")
        .await;
    // vi fills the screen, and marks the rows below the text.
    let row = |number: usize| {
        format!("document.querySelectorAll('#terminal .row')[{number}]?.textContent.trimEnd()")
    };
    tab.wait_for(&format!("{} === '~'", row(5))).await;
    tab.press("O").await;
    tab.type_text("first line: ä").await;
    tab.press("Escape").await;
    tab.wait_for(&format!(
        "{} === 'first line: ä' && {} === 'from the shell'",
        row(0),
        row(1)
    ))
    .await;
    tab.enter(":wq").await;
    tab.wait_for(
        "!terminal.isAlternate && document.getElementById('terminal').innerText.match(/[$#]\\s*$/)",
    )
    .await;
    tab.enter("clear; tac notes; stty size").await;
    tab.wait_for_screen("from the shell\nfirst line: ä\n").await;
    let size = tab.evaluate("`${terminal.rows} ${terminal.columns}`").await;
    tab.wait_for_screen(size.as_str().unwrap()).await;
    tab.enter("exit 4").await;
    tab.wait_for_screen("The shell exited with code 4. Press Enter to start another.")
        .await;
    tab.press("Enter").await;
    tab.enter("echo again $((40 + 2))").await;
    tab.wait_for_screen("again 42").await;
}

#[actix::test]
async fn closing_the_tab_kills_the_sandbox_of_a_silent_program() {
    let Some((application, mut tab)) = open().await else {
        return;
    };
    tab.run("bash", "echo started; sleep 1000").await;
    tab.wait_for_output("started\n").await;
    assert_eq!(application.sandboxes().await, 1);
    let closed = tokio::time::Instant::now();
    let _browser = tab.close().await;
    application.wait_for_sandboxes(0).await;
    let took = closed.elapsed();
    println!("the sandbox was gone after {took:?}");
    // Without the close frame, it would have lived for 30 s.
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[actix::test]
async fn the_terminal_emulator_follows_the_control_sequences() {
    let Some((_application, mut tab)) = open().await else {
        return;
    };
    let show = "(text, columns = 20, rows = 5) => {
        const element = document.createElement('div');
        const terminal = new Terminal(element, { onInput() {}, onResize() {} });
        terminal.resize(columns, rows);
        for (const piece of text) terminal.write(piece);
        const lines = terminal.lines.map((line) => line.map((cell) => cell.text).join('').trimEnd());
        return `${lines.join('|')} ${terminal.x},${terminal.y}`;
    }";
    for (text, screen) in [
        ("ab\r\ncd", "ab|cd||| 2,1"),
        ("\x1b[3;5Hx\x1b[1Ay", "|     y|    x|| 6,1"),
        ("12345678901234567890", "12345678901234567890|||| 19,0"),
        ("12345678901234567890ab", "12345678901234567890|ab||| 2,1"),
        ("1\r\n2\r\n3\r\n4\r\n5\r\n6", "2|3|4|5|6 1,4"),
        ("1\r\n2\r\n3\r\n4\r\n5\x1b[2;4r\x1b[4H\n", "1|3|4||5 0,3"),
        ("1\r\n2\r\n3\x1b[1;3r\x1b[H\x1bM0", "0|1|2|| 1,0"),
        ("abcdef\x1b[3G\x1b[2P", "abef|||| 2,0"),
        ("abcdef\x1b[3G\x1b[2@", "ab  cdef|||| 2,0"),
        ("abcdef\x1b[3G\x1b[2X", "ab  ef|||| 2,0"),
        ("abcdef\x1b[3G\x1b[K", "ab|||| 2,0"),
        ("a\r\nb\r\nc\x1b[2H\x1b[L", "a||b|c| 0,1"),
        ("a\r\nb\r\nc\x1b[2H\x1b[M", "a|c||| 0,1"),
        ("a\x1b[?1049hfull\x1b[?1049lb", "ab|||| 2,0"),
        ("\x1b(0lqk\x1b(Bq", "┌─┐q|||| 4,0"),
        ("-\x1b[5b", "------|||| 6,0"),
        ("日本e\u{301}", "日本e\u{301}|||| 5,0"),
        (
            "\x1b]0;title\x07\x1b[>c\x1b[38;5;196mred\x1b[m",
            "red|||| 3,0",
        ),
        ("a\x1b7\x1b[5;5Hb\x1b8c", "ac||||    b 2,0"),
        // Sequences that are malformed or end early.
        ("a\x1b\nb\x1b\x1b[Bc", "a| b|  c|| 3,2"),
        ("\x1b]0;title\x1b[31mred\x1bPdata\x1b\\!", "red!|||| 4,0"),
        ("\x1b[1\nb", "[1|  b||| 3,1"),
        // Large parameters.
        ("\x1b[999999999999Ia", "                   a|||| 19,0"),
        (
            &format!("\x1b[{}Ia", "9".repeat(400)),
            "                   a|||| 19,0",
        ),
    ] {
        // The sequences may arrive in pieces.
        let text = json!(text);
        for pieces in [format!("[{text}]"), format!("[...{text}]")] {
            let shown = tab.evaluate(&format!("({show})({pieces})")).await;
            assert_eq!(shown, screen, "{text}");
        }
    }
    // A flood of questions gets few answers, and a cell doesn't grow without bound.
    let flooded = "(() => {
        const replies = [];
        const onInput = (text) => replies.push(text);
        const terminal = new Terminal(document.createElement('div'), { onInput, onResize() {} });
        terminal.write('\\x1b[6n'.repeat(10_000));
        terminal.write('e' + '\\u0301'.repeat(10_000));
        return `${replies.length} ${replies[0].slice(0, 6)} ${replies[0].length} ${terminal.lines[0][0].text.length}`;
    })()";
    assert_eq!(tab.evaluate(flooded).await, "1 \x1b[1;1R 132 16");
    // A smaller window moves rows to the history, and hides columns. A larger one brings both back.
    let resized = "(() => {
        const terminal = new Terminal(document.createElement('div'), { onInput() {}, onResize() {} });
        terminal.resize(10, 4);
        terminal.write('1234567890\\r\\n2\\r\\n3\\r\\n4');
        const text = () => terminal.lines.map((line) => line.map((cell) => cell.text).join('').trimEnd()).join('|');
        terminal.resize(5, 2);
        const [small, history] = [text(), terminal.history.length];
        terminal.resize(10, 4);
        return `${small} ${history} ${text()} ${terminal.x},${terminal.y}`;
    })()";
    assert_eq!(tab.evaluate(resized).await, "3|4 2 1234567890|2|3|4 1,3");
}

/// The widths of a desktop and a phone.
const SCREENS: [(u32, u32, bool); 2] = [(1280, 800, false), (390, 844, true)];

/// Checks that nothing is wider than the screen. Saves screenshots if the variable `SCREENSHOTS`
/// names a directory.
async fn check_layout(tab: &mut Tab, name: &str) {
    for (width, height, is_mobile) in SCREENS {
        tab.resize(width, height, is_mobile).await;
        let overflows = "document.documentElement.scrollWidth > innerWidth";
        assert_eq!(tab.evaluate(overflows).await, false, "{name} at {width}");
        if let Some(directory) = std::env::var_os("SCREENSHOTS") {
            // The program in the terminal draws its screen again.
            let painted =
                "new Promise((done) => setTimeout(done, byId('console').hidden ? 100 : 1500))";
            tab.evaluate(painted).await;
            // A picture of the whole page would resize the terminal.
            let is_whole = tab.evaluate("byId('console').hidden").await == true;
            let scroll = "byId('console').hidden || byId('result').scrollIntoView()";
            tab.evaluate(scroll).await;
            let png = STANDARD.decode(tab.screenshot(is_whole).await).unwrap();
            let file = PathBuf::from(directory).join(format!("{name}-{width}.png"));
            std::fs::write(file, png).unwrap();
        }
    }
    let (width, height, is_mobile) = SCREENS[0];
    tab.resize(width, height, is_mobile).await;
}

#[actix::test]
async fn the_page_fits_a_desktop_and_a_phone() {
    let Some((_application, mut tab)) = open().await else {
        return;
    };
    let code = tab
        .evaluate("document.getElementById('editor').value")
        .await;
    let code = code.as_str().unwrap();
    let code = format!("{code}open('numbers.csv', 'w').write('1\\n2\\n')\nsys.exit(3)");
    tab.run("python", &code).await;
    tab.wait_for_output("line 2\n").await;
    check_layout(&mut tab, "running").await;
    tab.wait_for_output("exited with code").await;
    tab.wait_for("document.getElementById('list').textContent.includes('numbers.csv')")
        .await;
    check_layout(&mut tab, "ended").await;
    tab.open_terminal().await;
    tab.enter("ls --color=always -la /usr; echo $((6 * 7)) is the end")
        .await;
    tab.wait_for_screen("42 is the end").await;
    check_layout(&mut tab, "shell").await;
    tab.enter("vi -u NONE numbers.csv").await;
    tab.wait_for_screen("\n~").await;
    check_layout(&mut tab, "vi").await;
    tab.enter(":q!").await;
    tab.wait_for("!terminal.isAlternate").await;
    if !backend::is("gvisor") {
        // `top` needs TCSETSF, a request to a terminal that Debian's runsc does not know.
        tab.enter("top -d 1").await;
        tab.wait_for_screen("%CPU").await;
        check_layout(&mut tab, "top").await;
    }
    tab.click("#show-output").await;
    tab.evaluate("connection.end('All 100 sandboxes are in use. Try again in a few minutes.')")
        .await;
    check_layout(&mut tab, "refused").await;
}
