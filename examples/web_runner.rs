//! A web page where visitors run code, each in a separate sandbox: an editor, live output, a
//! terminal, uploads and downloads. The page is in `examples/web_runner`.
//!
//! ```text
//! PORT=8000 cargo run --example web_runner
//! PORT=8000 SANDBOX_URL=wss://my-service.run.app cargo run --example web_runner
//! ```
//!
//! The application has no authentication, and one visitor can use up all sandboxes. Put a login and
//! TLS in front of it before you let strangers in.
//!
//! Page and application exchange JSON over a WebSocket. Each side numbers the messages that must
//! not be lost, keeps each one until the other side confirms it, and sends it again on the next
//! connection. So a lost connection neither loses nor repeats a line of output or a keystroke.
//!
//! ```text
//! page ◄─ connection (task, while the page is connected) ◄─ Outbox ◄─ program, terminal (tasks)
//!                └── commands (Queue) ─► Visitor (task, as long as the sandbox) ──┘
//! ```

mod shared;

use std::{
    collections::{HashMap, VecDeque},
    env,
    error::Error,
    io::{self, Write, stderr, stdout},
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use actix_sandbox::{
    ErrorKind, LocalServer, Process, ProcessEnd, Runtime, Sandbox, SandboxEvent, StdStream,
    server::Backend,
};
use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    error::{ErrorBadRequest, ErrorForbidden, ErrorNotFound, ErrorPayloadTooLarge},
    http::header::{self, ContentType},
    rt, web,
};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, Session};
use bytes::BytesMut;
use futures::{StreamExt, future::join_all, stream};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    select,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, interval, timeout, timeout_at},
};

/// The maximum number of sandboxes. Later visitors are asked to come back.
const MAX_VISITORS: usize = 100;
/// The maximum size of a message from a page, in bytes.
const MAX_MESSAGE: usize = 256 * 1024;
/// How many bytes of output wait for a page. When the outbox is full, the program pauses.
const OUTBOX_BYTES: usize = 256 * 1024;
/// How many bytes of commands wait for the program, and how many wait for the terminal.
const QUEUE_BYTES: usize = 256 * 1024;
/// What an event or a command takes in addition to its text, in bytes.
const OVERHEAD: usize = 128;
/// The maximum size of an uploaded or downloaded file, in bytes.
const MAX_FILE: u64 = 64 * 1024 * 1024;
/// The maximum number of files that the page lists.
const MAX_LISTED: usize = 200;
/// The interval of pings and heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// After a silence of this length, the connection is lost. Browsers answer pings by themselves.
const LOST_AFTER: Duration = Duration::from_secs(4);
/// How long a sandbox waits for a page that has lost its connection.
const KEEP_LOST: Duration = Duration::from_secs(30);
/// The time limit of a program that the editor starts.
const RUN_LIMIT: Duration = Duration::from_secs(600);
/// The service deletes a sandbox in which nothing has run for this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1800);
/// The close code of a page that is about to connect again.
const RECONNECTING: u16 = 4000;

#[actix_web::main]
async fn main() -> ExitCode {
    // `namespace` and `gvisor` start this program again, as the agent of each sandbox.
    actix_sandbox::server::agent();
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let port = env::var("PORT").unwrap_or_else(|_| "0".to_owned());
    let address = format!("127.0.0.1:{port}");
    let _: u16 = port
        .parse()
        .map_err(|_| format!("the variable PORT is {port:?}, which is not a port"))?;
    // Visitors are strangers, so the local server must confine what they run.
    let (service, local) = match env::var("SANDBOX_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            let builder = LocalServer::builder().backend(Backend::Confined);
            let local = builder.max_sandboxes(MAX_VISITORS).start().await?;
            (local.url().to_owned(), Some(local))
        }
    };
    let runner = web::Data::new(Runner::new(service)?);
    let data = runner.clone();
    let server = HttpServer::new(move || App::new().app_data(data.clone()).configure(routes))
        // Open WebSockets would delay the shutdown.
        .shutdown_timeout(1)
        .tcp_nodelay(true)
        .bind(&address)
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    for address in server.addrs() {
        writeln!(stdout(), "listening on http://{address}/")?;
    }
    server.run().await?;
    runner.kill_all().await;
    if let Some(local) = local {
        local.stop().await;
    }
    Ok(())
}

fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/", web::get().to(page))
        .route("/page.js", web::get().to(page_script))
        .route("/terminal.js", web::get().to(terminal_script))
        .route("/connect", web::get().to(connect))
        .route("/files", web::get().to(list))
        .route("/files/{path:.+}", web::put().to(upload))
        .route("/files/{path:.+}", web::get().to(download));
}

// --- Messages

/// A message from a page.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum FromPage {
    /// The first message of each connection.
    Hello {
        /// The visitor of the last `Welcome`. `None` for a new page.
        visitor: Option<String>,
        /// The number of the last event that the page has shown.
        seen: u64,
    },
    /// The page has shown all events up to this number.
    Seen { number: u64 },
    /// Commands are numbered from 1.
    Command { number: u64, command: Command },
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Command {
    Run { language: String, code: String },
    Stop,
    OpenTerminal { columns: u16, rows: u16 },
    Type { text: String },
    Resize { columns: u16, rows: u16 },
}

/// What happens in a sandbox. Events are numbered, and arrive exactly once.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    Started,
    Output {
        stream: &'static str,
        text: String,
    },
    Ended {
        text: String,
        success: bool,
    },
    TerminalOpened,
    TerminalOutput {
        text: String,
    },
    TerminalEnded {
        text: String,
    },
    SandboxEnded {
        text: String,
    },
    /// A command failed.
    Failed {
        text: String,
    },
}

/// A message about the connection itself. It has no number, because it isn't sent again.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Notice<'a> {
    /// The answer to `Hello`.
    Welcome {
        visitor: &'a str,
        /// The number of the last command that arrived.
        handled: u64,
        is_running: bool,
        has_terminal: bool,
        max_message: usize,
        max_file: u64,
    },
    /// Sent every second. A page that hears nothing for 4 s connects again.
    Heartbeat { handled: u64 },
    /// No sandbox is free, or the page violated the protocol.
    Refused { text: &'a str },
    /// The sandbox is now open in another tab.
    TakenOver,
}

// --- Visitors

/// The state of the application. All workers share it.
struct Runner {
    service: String,
    /// The threads of the sandboxes' actors. They outlive the workers.
    runtime: Runtime,
    places: Arc<Semaphore>,
    visitors: Mutex<HashMap<String, Arc<Visitor>>>,
}

/// A sandbox, and the page that uses it.
struct Visitor {
    /// A secret: a page that sends it can use the sandbox.
    id: String,
    sandbox: Sandbox,
    presence: watch::Sender<Presence>,
    /// The number of the last command that was accepted.
    handled: Mutex<u64>,
    program_queue: Queue,
    /// A separate queue, so that a terminal that isn't reading doesn't delay `Stop`.
    terminal_queue: Queue,
    outbox: Outbox,
    /// The program that the editor has started.
    program: Mutex<Option<Process>>,
    /// The shell of the terminal.
    terminal: Mutex<Option<Process>>,
}

#[derive(Clone, Copy, Default)]
struct Presence {
    /// The number of the page's last connection.
    connection: u64,
    page: Page,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Page {
    Connected,
    /// The connection is lost, or not yet made.
    #[default]
    Lost,
    /// The visitor closed the page.
    Closed,
}

impl Runner {
    fn new(service: String) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            service,
            runtime: Runtime::new(1)?,
            places: Arc::new(Semaphore::new(MAX_VISITORS)),
            visitors: Mutex::default(),
        })
    }

    fn visitor(&self, id: &str) -> Option<Arc<Visitor>> {
        lock(&self.visitors).get(id).cloned()
    }

    /// Connects a page with its visitor. Returns `None` if the visitor is gone.
    fn resume(&self, id: &str, seen: u64) -> Option<(Arc<Visitor>, u64)> {
        // The lock keeps `remove` from removing the visitor at the same time.
        let visitors = lock(&self.visitors);
        let visitor = visitors.get(id)?;
        let connection = visitor.enter()?;
        visitor.outbox.confirm(seen);
        Some((visitor.clone(), connection))
    }

    /// Removes a visitor, unless its page is connected.
    fn remove(&self, visitor: &Visitor) -> bool {
        let mut visitors = lock(&self.visitors);
        let is_gone = visitor.presence.borrow().page != Page::Connected;
        if is_gone {
            visitors.remove(&visitor.id);
        }
        is_gone
    }

    /// Waits until a visitor has closed the page, or has lost the connection for too long.
    async fn left(&self, visitor: &Visitor) {
        let mut presence = visitor.presence.subscribe();
        loop {
            let page = presence.borrow_and_update().page;
            // `changed` never fails: its sender lives as long as the visitor.
            let is_gone = match page {
                Page::Connected => presence.changed().await.is_err(),
                Page::Lost => timeout(KEEP_LOST, presence.changed()).await.is_err(),
                Page::Closed => true,
            };
            if is_gone && self.remove(visitor) {
                return;
            }
        }
    }

    async fn kill_all(&self) {
        let visitors: Vec<_> = lock(&self.visitors).drain().map(|(_, it)| it).collect();
        join_all(visitors.iter().map(|visitor| visitor.kill())).await;
    }
}

/// Creates a sandbox for a new visitor. Dropping the future kills the sandbox.
async fn admit(runner: &web::Data<Runner>) -> Result<(Arc<Visitor>, u64), String> {
    let place = runner.places.clone().try_acquire_owned().map_err(|_| {
        format!("All {MAX_VISITORS} sandboxes are in use. Try again in a few minutes.")
    })?;
    let sandbox = Sandbox::create(&runner.service)
        .runtime(&runner.runtime)
        .auto_reconnect(true)
        .lift(true)
        .idle_timeout(IDLE_TIMEOUT)
        .kill_on_drop(true)
        .await
        .map_err(|error| sentence("The sandbox can't be created", error))?;
    let id = random_id().map_err(|error| sentence("The sandbox has no id", error))?;
    let (program_queue, program_commands) = Queue::new();
    let (terminal_queue, terminal_commands) = Queue::new();
    let visitor = Arc::new(Visitor {
        id: id.clone(),
        sandbox,
        presence: watch::Sender::default(),
        handled: Mutex::default(),
        program_queue,
        terminal_queue,
        outbox: Outbox::new(),
        program: Mutex::default(),
        terminal: Mutex::default(),
    });
    lock(&runner.visitors).insert(id, visitor.clone());
    let commands = [program_commands, terminal_commands];
    rt::spawn(live(runner.clone(), visitor.clone(), commands, place));
    let connection = visitor.enter().unwrap_or_default();
    Ok((visitor, connection))
}

/// The life of a visitor: executes commands until the visitor has left, then kills the sandbox.
async fn live(
    runner: web::Data<Runner>,
    visitor: Arc<Visitor>,
    commands: [mpsc::Receiver<Queued>; 2],
    place: OwnedSemaphorePermit,
) {
    let [program, terminal] = commands.map(|commands| visitor.execute(commands));
    let work = async { tokio::join!(program, terminal, visitor.report_end()) };
    select! {
        _ = work => {}
        () = runner.left(&visitor) => {}
    }
    visitor.outbox.close();
    visitor.kill().await;
    drop(place);
}

impl Visitor {
    /// Makes this the page's current connection. Returns `None` if the visitor has closed the page.
    fn enter(&self) -> Option<u64> {
        let mut connection = None;
        self.presence.send_if_modified(|presence| {
            let is_open = presence.page != Page::Closed;
            if is_open {
                presence.connection += 1;
                presence.page = Page::Connected;
                connection = Some(presence.connection);
            }
            is_open
        });
        connection
    }

    /// Ends a connection. Has no effect if the page has made another connection since.
    fn leave(&self, connection: u64, page: Page) {
        self.presence.send_if_modified(|presence| {
            let is_current = presence.connection == connection;
            if is_current {
                presence.page = page;
            }
            is_current
        });
    }

    /// Waits until the page has made another connection.
    async fn replaced(&self, connection: u64) {
        let mut presence = self.presence.subscribe();
        // The sender lives as long as the visitor, so this doesn't fail.
        let _ = presence.wait_for(|it| it.connection != connection).await;
    }

    /// Fails if the page has made another connection. It can't make one before the caller drops the
    /// result.
    fn current(&self, connection: u64) -> Result<watch::Ref<'_, Presence>, Ending> {
        let presence = self.presence.borrow();
        if presence.connection != connection {
            return Err(Ending::Replaced);
        }
        Ok(presence)
    }

    /// Removes the events that the page has shown. A replaced connection removes none, because the
    /// new page may not have shown them.
    fn confirm(&self, connection: u64, seen: u64) -> Result<(), Ending> {
        let _current = self.current(connection)?;
        self.outbox.confirm(seen);
        Ok(())
    }

    /// Queues a command, unless it arrived before.
    fn accept(&self, connection: u64, number: u64, command: Command) -> Result<(), Ending> {
        // Rejects commands of a replaced connection. The new connection's `Welcome` tells the page
        // which commands arrived, and it sends the others again.
        let _current = self.current(connection)?;
        let mut handled = lock(&self.handled);
        if number <= *handled {
            return Ok(());
        }
        if number != *handled + 1 {
            return Err(Ending::Refused("A command is missing.".to_owned()));
        }
        let (queue, may_drop) = match command {
            Command::Run { .. } | Command::Stop => (&self.program_queue, false),
            Command::OpenTerminal { .. } => (&self.terminal_queue, false),
            Command::Type { .. } | Command::Resize { .. } => (&self.terminal_queue, true),
        };
        // The terminal's queue is full only if its program isn't reading. Drops the keys then, as a
        // Unix terminal does. For another command, closes the connection: the page connects again,
        // and sends the command again.
        if !queue.push(command) && !may_drop {
            return Err(Ending::Lost);
        }
        *handled = number;
        Ok(())
    }

    fn welcome(&self) -> Notice<'_> {
        Notice::Welcome {
            visitor: &self.id,
            handled: *lock(&self.handled),
            is_running: lock(&self.program).is_some(),
            has_terminal: self.terminal().is_some(),
            max_message: MAX_MESSAGE,
            max_file: MAX_FILE,
        }
    }

    async fn execute(self: &Arc<Self>, mut commands: mpsc::Receiver<Queued>) {
        while let Some((command, _room)) = commands.recv().await {
            match command {
                Command::Run { language, code } => self.run(language, code).await,
                Command::Stop => self.stop(),
                Command::OpenTerminal { columns, rows } => self.open_terminal(columns, rows).await,
                Command::Type { text } => {
                    if let Some(terminal) = self.terminal() {
                        // Waits while the program isn't reading. Fails if the shell has ended.
                        let _ = terminal.write_to_stdin(text).await;
                    }
                }
                Command::Resize { columns, rows } => {
                    if let Some(terminal) = self.terminal() {
                        let _ = terminal.resize(columns, rows).await;
                    }
                }
            }
        }
    }

    async fn run(self: &Arc<Self>, language: String, code: String) {
        if lock(&self.program).is_some() {
            let text = "A program is running. Stop it first.".to_owned();
            return self.outbox.push(Event::Failed { text }).await;
        }
        let command = self.sandbox.command(language, code);
        match command.stdin("").timeout(RUN_LIMIT).spawn().await {
            Ok(program) => {
                *lock(&self.program) = Some(program.clone());
                self.outbox.push(Event::Started).await;
                rt::spawn(self.clone().show(program));
            }
            Err(error) => {
                let text = sentence("The program can't be started", error);
                let success = false;
                self.outbox.push(Event::Ended { text, success }).await;
            }
        }
    }

    /// Shows both outputs of a program in order of arrival, then how it ended.
    async fn show(self: Arc<Self>, program: Process) {
        let mut output = program.merged_output();
        let (mut stdout, mut stderr) = (Decoder::default(), Decoder::default());
        while let Some(piece) = output.next().await {
            let (stream, text) = match piece {
                Ok((StdStream::Stdout, bytes)) => ("stdout", stdout.decode(&bytes)),
                Ok((StdStream::Stderr, bytes)) => ("stderr", stderr.decode(&bytes)),
                Err(error) => {
                    self.fail("Output is missing", error).await;
                    continue;
                }
            };
            self.outbox.push(Event::Output { stream, text }).await;
        }
        let end = program.wait().await;
        *lock(&self.program) = None;
        let (text, success) = match end {
            Ok(end) => (ending("The program", &end), end.success()),
            Err(error) => (sentence("The end is unknown", error), false),
        };
        self.outbox.push(Event::Ended { text, success }).await;
    }

    fn stop(self: &Arc<Self>) {
        let Some(program) = lock(&self.program).clone() else {
            return;
        };
        let visitor = self.clone();
        rt::spawn(async move {
            if let Err(error) = program.kill().await {
                visitor.fail("The program can't be stopped", error).await;
            }
        });
    }

    fn terminal(&self) -> Option<Process> {
        lock(&self.terminal).clone()
    }

    async fn open_terminal(self: &Arc<Self>, columns: u16, rows: u16) {
        if self.terminal().is_some() {
            return;
        }
        match self.sandbox.terminal().size(columns, rows).open().await {
            Ok(terminal) => {
                let shell = terminal.process().clone();
                *lock(&self.terminal) = Some(shell.clone());
                self.outbox.push(Event::TerminalOpened).await;
                rt::spawn(self.clone().show_terminal(shell));
            }
            Err(error) => {
                let text = sentence("The terminal can't be opened", error);
                self.outbox.push(Event::TerminalEnded { text }).await;
            }
        }
    }

    /// Shows the output of a terminal, then how its shell ended.
    async fn show_terminal(self: Arc<Self>, shell: Process) {
        let mut output = shell.stdout().text();
        while let Some(piece) = output.next().await {
            let text = match piece {
                Ok(text) => text,
                Err(error) => {
                    // After any other error, the stream ends while the shell may still run.
                    if error.kind() != ErrorKind::OutputLost {
                        // This fails if the sandbox is lost, and then `wait` returns.
                        let _ = shell.kill().await;
                    }
                    format!("\r\n{}\r\n", sentence("Output is missing", error))
                }
            };
            self.outbox.push(Event::TerminalOutput { text }).await;
        }
        let end = shell.wait().await;
        *lock(&self.terminal) = None;
        let text = match end {
            Ok(end) => ending("The shell", &end),
            Err(error) => sentence("The end is unknown", error),
        };
        self.outbox.push(Event::TerminalEnded { text }).await;
    }

    /// Tells the page why its sandbox ended, if it ends before the visitor leaves.
    async fn report_end(&self) {
        let mut events = self.sandbox.events();
        while let Some(event) = events.next().await {
            if let SandboxEvent::Ended(end) = event {
                let text = sentence("The sandbox has ended", end);
                self.outbox.push(Event::SandboxEnded { text }).await;
            }
        }
        // If this returned, `live` would remove the visitor before the page has received the event.
        std::future::pending().await
    }

    async fn fail(&self, what: &str, error: impl std::fmt::Display) {
        let text = sentence(what, error);
        self.outbox.push(Event::Failed { text }).await;
    }

    async fn kill(&self) {
        if let Err(error) = self.sandbox.kill().await {
            // If stderr is closed, the error can't be reported.
            let _ = writeln!(stderr(), "{}: {error}", self.sandbox.sandbox_id());
        }
    }
}

/// Commands that wait for the sandbox, in the order of their numbers.
struct Queue {
    /// One permit for each byte.
    room: Arc<Semaphore>,
    commands: mpsc::Sender<Queued>,
}

type Queued = (Command, OwnedSemaphorePermit);

impl Queue {
    fn new() -> (Self, mpsc::Receiver<Queued>) {
        let room = Arc::new(Semaphore::new(QUEUE_BYTES));
        // `room` is the limit: the channel holds as many commands as have room.
        let (commands, receiver) = mpsc::channel(QUEUE_BYTES / OVERHEAD);
        (Self { room, commands }, receiver)
    }

    /// Adds a command. Returns `false` if the queue is full.
    fn push(&self, command: Command) -> bool {
        let bytes = match &command {
            Command::Run { language, code } => language.len() + code.len(),
            Command::Type { text } => text.len(),
            _ => 0,
        };
        let permits = (bytes + OVERHEAD).min(QUEUE_BYTES) as u32;
        let room = self.room.clone().try_acquire_many_owned(permits);
        room.is_ok_and(|room| self.commands.try_send((command, room)).is_ok())
    }
}

/// The events that a page hasn't confirmed, in the order of their numbers.
struct Outbox {
    /// One permit for each byte.
    room: Arc<Semaphore>,
    waiting: Mutex<VecDeque<Waiting>>,
    /// The number of the newest event.
    newest: watch::Sender<u64>,
}

struct Waiting {
    number: u64,
    json: String,
    _room: OwnedSemaphorePermit,
}

#[derive(Serialize)]
struct Numbered {
    number: u64,
    #[serde(flatten)]
    event: Event,
}

impl Outbox {
    fn new() -> Self {
        Self {
            room: Arc::new(Semaphore::new(OUTBOX_BYTES)),
            waiting: Mutex::default(),
            newest: watch::Sender::default(),
        }
    }

    /// Adds an event. Waits while the outbox is full. The output isn't read then, so the program
    /// pauses. Drops the event if the visitor has left.
    async fn push(&self, event: Event) {
        let bytes = match &event {
            Event::Output { text, .. } | Event::TerminalOutput { text } => text.len(),
            _ => 0,
        };
        // An empty event takes room, too. A large one waits until the outbox is empty.
        let permits = (bytes + OVERHEAD).min(OUTBOX_BYTES) as u32;
        let Ok(room) = self.room.clone().acquire_many_owned(permits).await else {
            return;
        };
        let mut waiting = lock(&self.waiting);
        let number = *self.newest.borrow() + 1;
        // This doesn't fail: an event is made of text and numbers.
        if let Ok(json) = serde_json::to_string(&Numbered { number, event }) {
            let _room = room;
            waiting.push_back(Waiting {
                number,
                json,
                _room,
            });
            self.newest.send_replace(number);
        }
    }

    /// Removes the events that the page has shown.
    fn confirm(&self, seen: u64) {
        let mut waiting = lock(&self.waiting);
        while waiting.front().is_some_and(|event| event.number <= seen) {
            waiting.pop_front();
        }
    }

    /// Waits for the first event after this number.
    async fn next(&self, after: u64) -> (u64, String) {
        let mut newest = self.newest.subscribe();
        loop {
            newest.borrow_and_update();
            {
                let waiting = lock(&self.waiting);
                let next = waiting.partition_point(|event| event.number <= after);
                if let Some(event) = waiting.get(next) {
                    return (event.number, event.json.clone());
                }
            }
            // `changed` doesn't fail: its sender is `self.newest`.
            let _ = newest.changed().await;
        }
    }

    /// Makes every `push` return, so that its task ends.
    fn close(&self) {
        self.room.close();
    }
}

// --- Connections

/// How a connection ends.
enum Ending {
    /// The page closed it and doesn't come back.
    Closed,
    /// It broke, or the page is silent.
    Lost,
    /// Another tab has the sandbox.
    Replaced,
    /// The application refused the page, for this reason.
    Refused(String),
}

async fn connect(
    request: HttpRequest,
    body: web::Payload,
    runner: web::Data<Runner>,
) -> actix_web::Result<HttpResponse> {
    // Browsers don't apply the same-origin policy to WebSockets.
    if !is_same_origin(&request) {
        return Err(ErrorForbidden("Requests from other sites are not allowed."));
    }
    let (response, session, messages) = actix_ws::handle(&request, body)?;
    let messages = messages.max_frame_size(MAX_MESSAGE);
    let messages = messages.aggregate_continuations();
    let incoming = Incoming {
        messages: messages.max_continuation_size(MAX_MESSAGE),
        heard: Instant::now(),
        has_failed: false,
    };
    rt::spawn(serve(runner, session, incoming));
    Ok(response)
}

fn is_same_origin(request: &HttpRequest) -> bool {
    let header = |name| request.headers().get(name)?.to_str().ok();
    let (origin, host) = (header(header::ORIGIN), header(header::HOST));
    let origin = origin.and_then(|origin| origin.split_once("://"));
    origin.is_some_and(|(_, origin)| Some(origin) == host)
}

async fn serve(runner: web::Data<Runner>, mut session: Session, mut incoming: Incoming) {
    let ending = match begin(&runner, &mut session, &mut incoming).await {
        Ok((visitor, connection, seen)) => {
            let ending = select! {
                // Reads first: a page that closes the connection sends a close frame, and then
                // writes fail.
                biased;
                ending = read(&visitor, connection, &mut incoming) => ending,
                ending = write(&visitor, session.clone(), seen) => ending,
                () = visitor.replaced(connection) => Ending::Replaced,
            };
            let page = match ending {
                Ending::Closed => Page::Closed,
                _ => Page::Lost,
            };
            visitor.leave(connection, page);
            ending
        }
        Err(ending) => ending,
    };
    // A page that doesn't read must not block the close.
    let _ = timeout(HEARTBEAT, async {
        match &ending {
            Ending::Replaced => send(&mut session, &Notice::TakenOver).await?,
            Ending::Refused(text) => send(&mut session, &Notice::Refused { text }).await?,
            Ending::Closed | Ending::Lost => {}
        }
        let code = CloseCode::Normal;
        session
            .close(Some(code.into()))
            .await
            .map_err(|_| Ending::Lost)
    })
    .await;
}

/// Finds the visitor of a page, or creates a sandbox. Returns the visitor, the number of the
/// connection, and the number of the last event that the page has shown.
async fn begin(
    runner: &web::Data<Runner>,
    session: &mut Session,
    incoming: &mut Incoming,
) -> Result<(Arc<Visitor>, u64, u64), Ending> {
    let FromPage::Hello { visitor, seen } = incoming.next().await? else {
        return Err(Ending::Refused(
            "The first message must be hello.".to_owned(),
        ));
    };
    let resumed = visitor.and_then(|id| runner.resume(&id, seen));
    let (visitor, connection, seen) = match resumed {
        Some((visitor, connection)) => (visitor, connection, seen),
        None => {
            // A new sandbox may take seconds. A visitor who leaves meanwhile gets none.
            let (visitor, connection) = select! {
                biased;
                ending = incoming.silence() => return Err(ending),
                admitted = admit(runner) => admitted.map_err(Ending::Refused)?,
                ending = heartbeats(session.clone(), || 0) => return Err(ending),
            };
            (visitor, connection, 0)
        }
    };
    if send(session, &visitor.welcome()).await.is_err() {
        visitor.leave(connection, Page::Lost);
        return Err(Ending::Lost);
    }
    Ok((visitor, connection, seen))
}

/// Reads the messages of a page.
async fn read(visitor: &Visitor, connection: u64, incoming: &mut Incoming) -> Ending {
    loop {
        let result = match incoming.next().await {
            Ok(FromPage::Command { number, command }) => {
                visitor.accept(connection, number, command)
            }
            Ok(FromPage::Seen { number }) => visitor.confirm(connection, number),
            Ok(FromPage::Hello { .. }) => Err(Ending::Refused(
                "Only the first message may be hello.".to_owned(),
            )),
            Err(ending) => Err(ending),
        };
        if let Err(ending) = result {
            return ending;
        }
    }
}

/// Writes the events after the number `seen`, and heartbeats.
async fn write(visitor: &Visitor, mut session: Session, mut seen: u64) -> Ending {
    let beats = heartbeats(session.clone(), || *lock(&visitor.handled));
    let events = async {
        loop {
            let (number, json) = visitor.outbox.next(seen).await;
            if session.text(json).await.is_err() {
                return Ending::Lost;
            }
            seen = number;
        }
    };
    select! {
        ending = beats => ending,
        ending = events => ending,
    }
}

/// A ping makes the browser answer, even if the page is in the background. The heartbeat is for the
/// page, which doesn't see pings.
async fn heartbeats(mut session: Session, handled: impl Fn() -> u64) -> Ending {
    let mut beats = interval(HEARTBEAT);
    loop {
        beats.tick().await;
        let handled = handled();
        let sent = async {
            session.ping(b"").await.map_err(|_| Ending::Lost)?;
            send(&mut session, &Notice::Heartbeat { handled }).await
        };
        if let Err(ending) = sent.await {
            return ending;
        }
    }
}

async fn send(session: &mut Session, notice: &Notice<'_>) -> Result<(), Ending> {
    let json = serde_json::to_string(notice).map_err(|_| Ending::Lost)?;
    session.text(json).await.map_err(|_| Ending::Lost)
}

/// The messages of a page, and when the last one arrived.
struct Incoming {
    messages: AggregatedMessageStream,
    heard: Instant,
    has_failed: bool,
}

impl Incoming {
    /// Returns the next message, or how the connection has ended.
    async fn next(&mut self) -> Result<FromPage, Ending> {
        loop {
            let message = timeout_at(self.heard + LOST_AFTER, self.messages.recv()).await;
            let message = match message {
                Ok(Some(Ok(message))) => message,
                // If a close frame arrives together with the end of the connection, the stream
                // returns the error first.
                Ok(Some(Err(_))) if !self.has_failed => {
                    self.has_failed = true;
                    continue;
                }
                _ => return Err(Ending::Lost),
            };
            self.heard = Instant::now();
            match message {
                AggregatedMessage::Text(text) => {
                    return serde_json::from_str(&text).map_err(|error| {
                        Ending::Refused(sentence("The page sent an invalid message", error))
                    });
                }
                AggregatedMessage::Close(reason) => {
                    let code = reason.map(|reason| u16::from(reason.code));
                    return Err(match code {
                        Some(RECONNECTING) => Ending::Lost,
                        _ => Ending::Closed,
                    });
                }
                // Pongs answer the heartbeats. Browsers send neither pings nor, here, binary data.
                _ => {}
            }
        }
    }

    /// Waits for the end of the connection. A message before `Welcome` violates the protocol.
    async fn silence(&mut self) -> Ending {
        match self.next().await {
            Ok(_) => Ending::Refused("The page must wait for its sandbox.".to_owned()),
            Err(ending) => ending,
        }
    }
}

// --- Files

/// The header in which the page sends its visitor's id. A page of another site can't set it without
/// permission from this one (CORS).
const VISITOR: &str = "x-visitor";

fn authorize(runner: &Runner, request: &HttpRequest) -> actix_web::Result<Arc<Visitor>> {
    let id = request
        .headers()
        .get(VISITOR)
        .and_then(|id| id.to_str().ok());
    let visitor = id.and_then(|id| runner.visitor(id));
    visitor.ok_or_else(|| ErrorForbidden("Your sandbox is gone. Reload the page."))
}

#[derive(Serialize)]
struct Listed {
    name: String,
    size: u64,
}

/// The files in the home directory that are not hidden.
async fn list(
    request: HttpRequest,
    runner: web::Data<Runner>,
) -> actix_web::Result<web::Json<Vec<Listed>>> {
    let visitor = authorize(&runner, &request)?;
    let entries = visitor.sandbox.files().entries(".", 1, None).await;
    let mut entries = entries.map_err(|error| failed("The files can't be listed", error))?;
    let mut files = Vec::new();
    while let Some(entry) = entries.next().await {
        let entry = entry.map_err(|error| failed("The files can't be listed", error))?;
        let (name, size) = (entry.path.to_string(), entry.metadata.size);
        if entry.metadata.is_file() && !name.starts_with('.') {
            files.push(Listed { name, size });
        }
        if files.len() == MAX_LISTED {
            break;
        }
    }
    Ok(web::Json(files))
}

async fn upload(
    request: HttpRequest,
    path: web::Path<String>,
    mut body: web::Payload,
    runner: web::Data<Runner>,
) -> actix_web::Result<HttpResponse> {
    let visitor = authorize(&runner, &request)?;
    let refused = |error| failed("The file can't be written", error);
    let file = visitor.sandbox.files().create(path.as_str()).await;
    let mut file = file.map_err(|error| failed("The file can't be written", error))?;
    let mut size = 0;
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        size += chunk.len() as u64;
        if size > MAX_FILE {
            // The writer is dropped without a shutdown, so the old file stays.
            let text = format!("The file is larger than {} MiB.", MAX_FILE >> 20);
            return Err(ErrorPayloadTooLarge(text));
        }
        file.write_all(&chunk).await.map_err(refused)?;
    }
    file.shutdown().await.map_err(refused)?;
    Ok(HttpResponse::NoContent().finish())
}

async fn download(
    request: HttpRequest,
    path: web::Path<String>,
    runner: web::Data<Runner>,
) -> actix_web::Result<HttpResponse> {
    let visitor = authorize(&runner, &request)?;
    let files = visitor.sandbox.files();
    let missing = |error| ErrorNotFound(sentence("The file can't be read", error));
    let metadata = files.metadata(path.as_str()).await.map_err(missing)?;
    if metadata.size > MAX_FILE {
        let text = format!("The file is larger than {} MiB.", MAX_FILE >> 20);
        return Err(ErrorBadRequest(text));
    }
    let file = files.open_range(path.as_str(), 0, Some(MAX_FILE)).await;
    let file = file.map_err(|error| failed("The file can't be read", error))?;
    let content = stream::try_unfold(file, |mut file| async move {
        let mut chunk = BytesMut::with_capacity(64 * 1024);
        let read = file.read_buf(&mut chunk).await?;
        Ok::<_, io::Error>((read > 0).then(|| (chunk.freeze(), file)))
    });
    // If the file can't be read, the first chunk is the error.
    let mut content = Box::pin(content.peekable());
    if let Some(Err(error)) = content.as_mut().peek().await {
        return Err(ErrorNotFound(sentence("The file can't be read", error)));
    }
    Ok(HttpResponse::Ok()
        // Without the name, which may contain control characters. The page names the file.
        .insert_header((header::CONTENT_DISPOSITION, "attachment"))
        .insert_header(ContentType::octet_stream())
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .streaming(content))
}

fn failed(what: &str, error: impl std::fmt::Display) -> actix_web::Error {
    ErrorBadRequest(sentence(what, error))
}

// --- The page

/// The page runs its own scripts only, and no other site can frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; \
    connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

async fn page() -> HttpResponse {
    HttpResponse::Ok()
        .content_type(ContentType::html())
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .body(include_str!("web_runner/page.html"))
}

async fn page_script() -> HttpResponse {
    script(include_str!("web_runner/page.js"))
}

async fn terminal_script() -> HttpResponse {
    script(include_str!("web_runner/terminal.js"))
}

fn script(text: &'static str) -> HttpResponse {
    let javascript = "text/javascript; charset=utf-8";
    HttpResponse::Ok().content_type(javascript).body(text)
}

// --- Helpers

/// No code panics while it holds a lock, so no state is half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sentence(what: &str, error: impl std::fmt::Display) -> String {
    let error = error.to_string();
    format!("{what}: {}.", error.trim_end_matches('.'))
}

fn ending(what: &str, end: &ProcessEnd) -> String {
    match end {
        ProcessEnd::Killed => format!("{what} was stopped."),
        ProcessEnd::TimedOut => format!("{what} took too long and was stopped."),
        end => format!("{what} {end}."),
    }
}

/// 128 random bits, which can't be guessed.
fn random_id() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Decodes UTF-8 that arrives in pieces. U+FFFD replaces other bytes.
#[derive(Default)]
struct Decoder {
    /// The first bytes of an incomplete character.
    rest: Vec<u8>,
}

impl Decoder {
    fn decode(&mut self, bytes: &[u8]) -> String {
        self.rest.extend_from_slice(bytes);
        let last = self.rest.utf8_chunks().last();
        let incomplete = last.map_or(0, |chunk| match std::str::from_utf8(chunk.invalid()) {
            Err(error) if error.error_len().is_none() => chunk.invalid().len(),
            _ => 0,
        });
        let rest = self.rest.split_off(self.rest.len() - incomplete);
        let complete = std::mem::replace(&mut self.rest, rest);
        String::from_utf8_lossy(&complete).into_owned()
    }
}
