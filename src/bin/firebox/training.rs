//! A run while it trains: lines on stderr, or the interface of Burn where stdout is a terminal. Signals end it well.

use std::time::{Duration, Instant};

use firebox::{
    observe::Flow,
    train::{LoadedRun, RunEvent, RunReport, TrainError},
};

use crate::{
    Failure, messages, output,
    stops::{INTERRUPT, Signalled, Stops},
};

/// Shows what happens to a run. Whether it goes on.
pub(crate) trait Screen {
    fn show(&mut self, event: &RunEvent<'_>);

    /// Whether somebody asked for the end on the screen itself.
    fn stops(&self) -> bool {
        false
    }
}

/// Trains to the end, or until a signal asks for the end.
pub(crate) fn train(run: LoadedRun, json: bool) -> Result<RunReport, Failure> {
    let stops = Stops::install();
    let mut screen = screen(json, run.steps());
    let trained = run.train(&mut |event| {
        screen.show(event);
        match stops.signal().is_some() || screen.stops() {
            true => Flow::Cancel,
            false => Flow::Continue,
        }
    });
    // Who asks on the screen asks as Ctrl-C does.
    let asked = screen.stops().then_some(INTERRUPT);
    drop(screen);
    trained.map_err(|error| {
        let signal = match &error {
            TrainError::Stopped { .. } => messages::signal_of_any(stops.signal().or(asked)),
            _ => None,
        };
        match signal {
            Some(signal) => Box::new(Signalled {
                signal,
                said: error.to_string(),
            }) as Failure,
            None => error.into(),
        }
    })
}

fn screen(json: bool, steps: u64) -> Box<dyn Screen> {
    #[cfg(feature = "tui")]
    {
        use std::io::IsTerminal;
        if !json && std::io::stdout().is_terminal() && std::io::stdin().is_terminal() {
            return Box::new(crate::terminal::Terminal::new(steps));
        }
    }
    let _ = json;
    Box::new(Lines { steps, next: None })
}

/// A line for a step now and then, and for everything else.
struct Lines {
    steps: u64,
    /// The time from which the next step gets a line.
    next: Option<Instant>,
}

/// Lines of steps come no more often.
const EVERY: Duration = Duration::from_secs(1);

impl Screen for Lines {
    fn show(&mut self, event: &RunEvent<'_>) {
        if let RunEvent::Batch { .. } = event {
            return;
        }
        if let RunEvent::Step(metrics) = event {
            let now = Instant::now();
            let last = metrics.step == self.steps;
            if !last && self.next.is_some_and(|next| now < next) {
                return;
            }
            self.next = Some(now + EVERY);
        }
        output::note(event);
    }
}
