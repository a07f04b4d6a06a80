"use strict";

// --- The connection
//
// The application numbers its events, and this page numbers its commands. Each side keeps what the
// other side hasn't confirmed, and sends it again on the next connection.

/** A connection on which nothing arrived for this many milliseconds is lost. */
const LOST_AFTER = 4000;
/** The close code that tells the application that this page will connect again. */
const RECONNECTING = 4000;

const connection = {
  socket: null,
  /** Whether the application has answered this page's hello. */
  isWelcome: false,
  /** Whether the page has given up. */
  isOver: false,
  /** A secret that identifies this tab. */
  visitor: sessionStorage.getItem("visitor"),
  /** The number of the last event that this page has shown. */
  seen: 0,
  confirmed: 0,
  confirming: null,
  /** The commands that the application hasn't confirmed. */
  commands: [],
  lastCommand: 0,
  /** The number of the last command that was sent, on any connection. */
  lastSent: 0,
  heard: 0,
  delay: 250,
  limits: { max_message: 0, max_file: 0 },

  open() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}/connect`);
    this.socket = socket;
    this.heard = performance.now();
    socket.onopen = () => this.send({ type: "hello", visitor: this.visitor, seen: this.seen });
    socket.onmessage = (message) => {
      this.heard = performance.now();
      this.receive(JSON.parse(message.data));
    };
    socket.onclose = () => this.reopen();
  },

  /** Drops the current socket and connects again after a delay, which grows. */
  reopen(delay = this.delay) {
    this.drop();
    if (this.isOver) return;
    showStatus("Connection lost. Reconnecting…");
    setTimeout(() => this.socket === null && !this.isOver && this.open(), delay);
    this.delay = Math.min(this.delay * 2, 2000);
  },

  /** Closes the current socket with this code. */
  drop(code = RECONNECTING) {
    const socket = this.socket;
    if (socket === null) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(code);
    this.socket = null;
    this.isWelcome = false;
    updateButtons();
  },

  /** Ends the connection for good, for this reason. The application then frees the place. */
  end(reason) {
    this.isOver = true;
    this.drop(1000);
    showStatus("Not connected", "over");
    showNotice(reason, true);
  },

  check() {
    if (this.socket !== null && performance.now() - this.heard > LOST_AFTER) this.reopen();
  },

  send(message) {
    this.socket.send(JSON.stringify(message));
    if (message.type === "command") this.lastSent = message.number;
  },

  /** Sends a command, now or when the connection is back. */
  command(command) {
    const numbered = { type: "command", number: this.lastCommand + 1, command };
    const last = this.commands.at(-1);
    // While the connection is lost, all keys go into one command.
    const isMerged = command.type === "type" && last?.command.type === "type" && last.number > this.lastSent;
    if (isMerged) {
      numbered.number = last.number;
      command.text = last.command.text + command.text;
    }
    if (new Blob([JSON.stringify(numbered)]).size > this.limits.max_message) {
      note("failure", `This is too long. The limit is ${this.limits.max_message >> 10} KiB.`);
      return false;
    }
    if (isMerged) this.commands.pop();
    this.commands.push(numbered);
    this.lastCommand = numbered.number;
    if (this.isWelcome) this.send(numbered);
    return true;
  },

  receive(message) {
    switch (message.type) {
      case "welcome": return this.welcome(message);
      case "heartbeat": return this.forget(message.handled);
      case "refused": return this.end(message.text);
      case "taken_over":
        // The button starts a new sandbox, and doesn't take this one back.
        sessionStorage.removeItem("visitor");
        return this.end("This sandbox is now open in another tab.");
    }
    if (message.number <= this.seen) return;
    this.seen = message.number;
    handle(message);
    // The application pauses a program whose output isn't confirmed.
    if (this.seen - this.confirmed >= 32) this.confirm();
    else this.confirming ??= setTimeout(() => this.confirm(), 50);
  },

  confirm() {
    clearTimeout(this.confirming);
    this.confirming = null;
    if (!this.isWelcome) return;
    this.confirmed = this.seen;
    this.send({ type: "seen", number: this.seen });
  },

  /** Forgets the commands that the application has. */
  forget(handled) {
    this.commands = this.commands.filter((command) => command.number > handled);
  },

  welcome(welcome) {
    const isNew = welcome.visitor !== this.visitor;
    if (isNew) {
      if (this.visitor !== null) {
        showNotice("Your earlier sandbox is gone, because the page was closed or the connection " +
          "was lost for more than 30 seconds. This is a new one, without your files.");
      }
      this.visitor = welcome.visitor;
      sessionStorage.setItem("visitor", welcome.visitor);
      this.seen = this.confirmed = this.lastCommand = this.lastSent = 0;
      this.commands = [];
      terminal.reset();
    }
    // Another tab may have sent commands before this one.
    this.lastCommand = Math.max(this.lastCommand, welcome.handled);
    this.limits = welcome;
    this.isWelcome = true;
    this.delay = 250;
    this.forget(welcome.handled);
    for (const command of this.commands) this.send(command);
    // A page that was never connected learns the state here, and otherwise from the events.
    if (isNew || this.seen === 0) {
      state.isRunning = welcome.is_running;
      state.terminal = welcome.has_terminal ? "open" : "none";
      refreshFiles();
      if (!byId("console").hidden) openTerminal();
    }
    showStatus("Connected", "connected");
    updateButtons();
  },
};

// --- What happens in the sandbox

const byId = (id) => document.getElementById(id);
const state = { isRunning: false, terminal: "none" };

function handle(event) {
  switch (event.type) {
    case "started":
      state.isRunning = true;
      break;
    case "output":
      append(event.stream, event.text);
      break;
    case "ended":
      state.isRunning = false;
      note(event.success ? "success" : "failure", event.text);
      refreshFiles();
      break;
    case "failed":
      note("failure", event.text);
      break;
    case "terminal_opened":
      state.terminal = "open";
      break;
    case "terminal_output":
      terminal.write(event.text);
      break;
    case "terminal_ended":
      state.terminal = "ended";
      terminal.write(`\r\n\x1b[0m${event.text} Press Enter to start another.\r\n`);
      refreshFiles();
      break;
    case "sandbox_ended":
      sessionStorage.removeItem("visitor");
      connection.end(event.text);
      break;
  }
  updateButtons();
}

/** The number of characters of output that the page keeps. */
const MAX_OUTPUT = 1_000_000;
const output = byId("output");
let outputLength = 0;

function append(kind, text) {
  const isAtEnd = output.scrollHeight - output.scrollTop - output.clientHeight < 40;
  let last = output.lastElementChild;
  if (last === null || last.className !== kind || last.textContent.length > 16_384) {
    last = document.createElement("span");
    last.className = kind;
    last.append("");
    output.append(last);
  }
  last.firstChild.appendData(text);
  outputLength += text.length;
  while (outputLength > MAX_OUTPUT && output.firstChild !== last) {
    outputLength -= output.firstChild.textContent.length;
    output.firstChild.remove();
  }
  if (isAtEnd) output.scrollTop = output.scrollHeight;
}

/** Shows a sentence of the page on its own line. */
function note(kind, text) {
  const isLineStart = output.textContent === "" || output.lastElementChild.textContent.endsWith("\n");
  append(kind, `${isLineStart ? "" : "\n"}${text}\n`);
}

function showStatus(text, kind = "") {
  byId("status").textContent = text;
  byId("status").className = kind;
}

function showNotice(text, isEnd = false) {
  byId("notice").hidden = false;
  byId("notice").querySelector("span").textContent = text;
  byId("notice").querySelector("button").hidden = !isEnd;
}

function updateButtons() {
  const isHere = connection.isWelcome;
  byId("run").disabled = !isHere || state.isRunning;
  byId("stop").disabled = !isHere || !state.isRunning;
  byId("upload").disabled = byId("refresh").disabled = !isHere;
}

function run() {
  if (byId("run").disabled) return;
  const [language, code] = [byId("language").value, byId("editor").value];
  select("output");
  byId("notice").hidden = true;
  if (connection.command({ type: "run", language, code })) {
    state.isRunning = true;
    updateButtons();
  }
}

byId("run").onclick = run;
byId("stop").onclick = () => connection.command({ type: "stop" });
byId("editor").onkeydown = (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    run();
  }
};
byId("clear").onclick = () => {
  if (byId("console").hidden) {
    output.replaceChildren();
    outputLength = 0;
  } else {
    terminal.clearHistory();
    terminal.focus();
  }
};
byId("notice").querySelector("button").onclick = () => location.reload();

// --- Files

/** Asks the application about files. Shows why it fails. */
async function request(path, options = {}) {
  const headers = { "x-visitor": connection.visitor };
  const response = await fetch(path, { ...options, headers }).catch(() => {
    throw new Error("The application can't be reached. Try again later.");
  });
  if (!response.ok) throw new Error(await response.text());
  return response;
}

async function refreshFiles() {
  try {
    const files = await (await request("files")).json();
    const items = files.map(({ name, size }) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.textContent = "Download";
      button.setAttribute("aria-label", `Download ${name}`);
      button.onclick = () => download(name);
      item.append(labelled("name", name), labelled("size", bytes(size)), button);
      return item;
    });
    byId("list").replaceChildren(...(items.length > 0 ? items : [labelled("empty", "No files yet.", "li")]));
  } catch (error) {
    byId("progress").textContent = error.message;
  }
}

function labelled(kind, text, tag = "span") {
  const element = document.createElement(tag);
  element.className = kind;
  element.textContent = text;
  return element;
}

function bytes(size) {
  if (size < 1024) return `${size} B`;
  if (size < 1024 * 1024) return `${(size / 1024).toFixed(1)} KiB`;
  return `${(size / 1024 / 1024).toFixed(1)} MiB`;
}

async function upload(files) {
  const progress = byId("progress");
  try {
    for (const file of files) {
      if (file.size > connection.limits.max_file) {
        throw new Error(`${file.name} is larger than ${bytes(connection.limits.max_file)}.`);
      }
      progress.textContent = `Uploading ${file.name}…`;
      await request(`files/${encodeURIComponent(file.name)}`, { method: "PUT", body: file });
    }
    progress.textContent = "";
  } catch (error) {
    progress.textContent = error.message;
  }
  await refreshFiles();
}

async function download(name) {
  const progress = byId("progress");
  try {
    progress.textContent = `Downloading ${name}…`;
    const response = await request(`files/${encodeURIComponent(name)}`);
    const content = await response.blob().catch(() => {
      throw new Error(`${name} did not arrive completely. Try again.`);
    });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(content);
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
    progress.textContent = "";
  } catch (error) {
    progress.textContent = error.message;
  }
}

byId("refresh").onclick = refreshFiles;
byId("upload").onclick = () => byId("chosen").click();
byId("chosen").onchange = async () => {
  await upload([...byId("chosen").files]);
  byId("chosen").value = "";
};

// --- The terminal

const terminal = new Terminal(byId("terminal"), {
  onInput(text) {
    if (hasTerminal()) connection.command({ type: "type", text });
    else if (state.terminal === "ended" && text.includes("\r")) openTerminal();
  },
  onResize({ columns, rows }) {
    if (hasTerminal()) connection.command({ type: "resize", columns, rows });
  },
});

/** Whether the application has a terminal, or opens one before it handles the next command. */
function hasTerminal() {
  return state.terminal === "open" || state.terminal === "opening";
}

function openTerminal() {
  const { columns, rows } = terminal.fit();
  if (!hasTerminal()) {
    connection.command({ type: "open_terminal", columns, rows });
    state.terminal = "opening";
  }
  terminal.focus();
}

function select(name) {
  const isTerminal = name === "terminal";
  byId("output").hidden = isTerminal;
  byId("console").hidden = !isTerminal;
  byId("show-output").setAttribute("aria-selected", !isTerminal);
  byId("show-terminal").setAttribute("aria-selected", isTerminal);
}

byId("show-output").onclick = () => select("output");
byId("show-terminal").onclick = () => {
  select("terminal");
  if (connection.isWelcome && state.terminal === "none") openTerminal();
  terminal.focus();
};
for (const button of byId("keys").children) {
  button.onclick = () => {
    terminal.press({ key: button.dataset.key, ctrlKey: "control" in button.dataset });
    terminal.focus();
  };
}
let fitting = null;
new ResizeObserver(() => {
  // Once, when the window has its new size.
  clearTimeout(fitting);
  fitting = setTimeout(() => byId("console").hidden || terminal.fit(), 100);
}).observe(byId("terminal"));

// --- Start

setInterval(() => connection.check(), 500);
addEventListener("online", () => connection.socket === null || connection.reopen(0));
connection.open();
