//! The whole terminal: taken, drawn on, and given back as it was, whatever ends the program.
//!
//! Invariant: while the terminal is not ours (before, after, during a stop by Ctrl-Z, after a panic) it is as it was found.

use std::io::{IsTerminal as _, Stdout, stdout};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::{cursor, execute, terminal};
use ratatui::layout::{Position, Rect};
use ratatui::{Frame, Terminal};
use rustix::process::{Signal, getpid, kill_current_process_group, kill_process};
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use crate::exit::{Failure, failed};

/// The terminal is ours now.
static OURS: AtomicBool = AtomicBool::new(false);
/// Something panicked while it was.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// What comes in from the person or from the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// A key was pressed.
    Key(KeyEvent),
    /// The size has changed, or the terminal is ours again: everything is to be drawn anew.
    Redraw,
    /// SIGINT, SIGTERM or SIGHUP.
    End,
}

/// The terminal while it is ours.
pub(crate) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    keys: UnboundedReceiver<Event>,
    int: unix::Signal,
    term: unix::Signal,
    hup: unix::Signal,
    stop: unix::Signal,
    go_on: unix::Signal,
}

/// Whether there is a terminal to draw on.
pub(crate) fn is_there() -> bool {
    stdout().is_terminal()
}

impl Screen {
    /// Takes the terminal. Once a process.
    pub(crate) fn take() -> Result<Self, Failure> {
        let no_signals = |error: std::io::Error| failed("cannot catch signals", &error);
        let listen = |kind: SignalKind| unix::signal(kind).map_err(no_signals);
        let (int, term) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        let (hup, stop) = (listen(SignalKind::hangup())?, listen(SignalKind::from_raw(Signal::TSTP.as_raw()))?);
        let go_on = listen(SignalKind::from_raw(Signal::CONT.as_raw()))?;
        give_back_on_panic();
        enter()?;
        let terminal = Terminal::new(CrosstermBackend::new(stdout())).map_err(|error| unusable(&error));
        let terminal = terminal.inspect_err(|_| leave())?;
        Ok(Self { terminal, keys: read_keys(), int, term, hup, stop, go_on })
    }

    /// Draws everything; only what differs from what stands there is sent.
    pub(crate) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> Result<(), Failure> {
        if PANICKED.load(Ordering::SeqCst) {
            return Err(Failure::Failed("a part of the program has panicked".to_owned()));
        }
        self.terminal.draw(draw).map(|_| ()).map_err(|error| unusable(&error))
    }

    /// What comes in next. Losing this future loses no input.
    pub(crate) async fn input(&mut self) -> Input {
        loop {
            tokio::select! {
                biased;
                _ = self.int.recv() => return Input::End,
                _ = self.term.recv() => return Input::End,
                _ = self.hup.recv() => return Input::End,
                _ = self.stop.recv() => {
                    self.pause(|| kill_process(getpid(), Signal::STOP));
                    return Input::Redraw;
                }
                // After a stop that nobody can catch, the shell has set the terminal to its own ways.
                _ = self.go_on.recv() => {
                    self.take_again();
                    return Input::Redraw;
                }
                event = self.keys.recv() => match event {
                    Some(Event::Key(key)) if is(key, 'z') => {
                        // As the terminal would have done it: all of a pipeline or a script stops.
                        self.pause(|| kill_current_process_group(Signal::STOP));
                        return Input::Redraw;
                    }
                    Some(Event::Key(key)) if is(key, 'c') => return Input::End,
                    Some(Event::Key(key)) if key.kind != KeyEventKind::Release => return Input::Key(key),
                    Some(Event::Resize(..)) => return Input::Redraw,
                    Some(_) => {}
                    // No key can come any more; a signal still can.
                    None => std::future::pending().await,
                },
            }
        }
    }

    /// Stands still until it is told to go on.
    fn pause(&mut self, stop: impl FnOnce() -> rustix::io::Result<()>) {
        leave();
        // One that cannot stop goes on at once.
        let _ = stop();
        self.take_again();
    }

    fn take_again(&mut self) {
        // What cannot be taken shows with the next drawing.
        let _ = terminal::disable_raw_mode();
        let _ = enter();
        // Not `clear`: that asks the terminal where its cursor is, and the answer would go to whoever reads the keys.
        if let Ok(size) = self.terminal.size() {
            let _ = self.terminal.resize(Rect::from((Position::ORIGIN, size)));
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Whether it is this letter with Ctrl.
fn is(key: KeyEvent, letter: char) -> bool {
    key.code == KeyCode::Char(letter) && key.modifiers.contains(KeyModifiers::CONTROL)
}

fn unusable(error: &std::io::Error) -> Failure {
    failed("cannot use the terminal", error)
}

fn enter() -> Result<(), Failure> {
    terminal::enable_raw_mode().map_err(|error| unusable(&error))?;
    OURS.store(true, Ordering::SeqCst);
    execute!(stdout(), terminal::EnterAlternateScreen, cursor::Hide).map_err(|error| unusable(&error)).inspect_err(
        |_| {
            leave();
        },
    )
}

/// Gives the terminal back; a second time does nothing.
fn leave() {
    if OURS.swap(false, Ordering::SeqCst) {
        // A terminal that has gone needs nothing back.
        let _ = execute!(stdout(), cursor::Show, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

/// What a panic says is read on the terminal as it was, and not drawn over.
fn give_back_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !steadfast_store::panic_is_expected() {
                PANICKED.store(true, Ordering::SeqCst);
                leave();
            }
            before(panic);
        }));
    });
}

/// Keys are waited for on a thread of their own, which ends with the process.
fn read_keys() -> UnboundedReceiver<Event> {
    let (keys, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if keys.send(event).is_err() {
                return;
            }
        }
    });
    receiver
}
