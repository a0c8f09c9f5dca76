//! What a person sees while it runs: on a terminal a block that is drawn anew several times a second, elsewhere a line a second.
//!
//! Numbers come from the clients' books; what they mean is judged in `verdict`.

use std::collections::{BTreeMap, VecDeque};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::lab::plan::backend_name;
use crate::traffic::{Latency, LongLivedReport, UdpReport, Window};

use super::script::BACKENDS;

/// Redraws on a terminal, and lines elsewhere.
const FRAME: Duration = Duration::from_millis(200);
const LINE: Duration = Duration::from_secs(1);
/// Rates are averages over this time.
const AVERAGE: Duration = Duration::from_millis(1000);
const BAR_MAX: usize = 40;
const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// Standard output, with or without its tricks.
pub(super) struct Screen {
    terminal: bool,
    color: bool,
    /// Lines of the block that is on the terminal now.
    drawn: usize,
    windows: VecDeque<Window>,
    last: Instant,
}

/// The colours, by meaning.
#[derive(Clone, Copy)]
pub(super) enum Tone {
    Strong,
    Good,
    Bad,
    Faint,
}

impl Screen {
    pub(super) fn new(plain: bool) -> Self {
        let terminal = std::io::stdout().is_terminal() && !plain;
        let color = terminal && std::env::var_os("NO_COLOR").is_none();
        Self {
            terminal,
            color,
            drawn: 0,
            windows: VecDeque::new(),
            last: Instant::now(),
        }
    }

    /// A text in a colour, where there are colours.
    pub(super) fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Strong => "1",
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Faint => "2",
        };
        if self.color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Writes lines that stay.
    pub(super) fn say(&mut self, text: &str) {
        self.erase();
        // Output that has no reader any more is no reason to stop, let alone to panic: the lab is to be cleaned up.
        let mut out = std::io::stdout();
        let _closed = writeln!(out, "{text}").and_then(|()| out.flush());
    }

    /// A step begins: rates start anew.
    pub(super) fn restart(&mut self) {
        self.windows.clear();
        self.last = Instant::now();
    }

    /// How long to sleep between two calls of [`Self::show`].
    pub(super) fn frame(&self) -> Duration {
        if self.terminal { FRAME } else { LINE }
    }

    /// Shows how things are now.
    pub(super) fn show(&mut self, window: Window, long_lived: &LongLivedReport, udp: &UdpReport, left: Duration) {
        self.windows.push_back(window);
        let length = |windows: &VecDeque<Window>| windows.iter().map(|window| window.length).sum::<Duration>();
        while self.windows.len() > 1 && length(&self.windows) - self.windows[0].length >= AVERAGE {
            self.windows.pop_front();
        }
        let seconds = length(&self.windows).as_secs_f64().max(1e-3);
        let (mut connect, mut backends) = (Latency::default(), BTreeMap::<&str, u64>::new());
        let (mut refused, mut lost) = (0, 0);
        for window in &self.windows {
            connect.merge(&window.connect);
            refused += window.refused;
            lost += window.lost;
            for (name, count) in &window.backends {
                *backends.entry(name).or_default() += count;
            }
        }
        let rate = |count: u64| count as f64 / seconds;
        let rates: Vec<_> = (1..=BACKENDS)
            .map(backend_name)
            .map(|name| (rate(backends.get(name.as_str()).copied().unwrap_or_default()), name))
            .collect();
        let answered: f64 = rates.iter().map(|(rate, _)| rate).sum();
        let times = if connect.count() == 0 {
            "nobody connected".to_owned()
        } else {
            let millis = |share: f64| connect.quantile(share).as_secs_f64() * 1e3;
            format!("p50 {:.2} ms  p99 {:.2} ms", millis(0.5), millis(0.99))
        };
        let kept = format!("{} long-lived open, {} lost", long_lived.open, long_lived.lost);
        let unanswered = udp.missing + udp.refused + udp.wrong;
        let udp = format!("{} UDP sessions, {unanswered} unanswered", udp.sessions.len());
        if self.terminal {
            let most = rates.iter().map(|(rate, _)| *rate).fold(1.0, f64::max);
            let mut lines: Vec<_> = rates
                .iter()
                .map(|(rate, name)| format!("  {name:10} {} {rate:5.0}/s", bar(rate / most)))
                .collect();
            lines.push(format!(
                "  {answered:.0} new connections/s  {times}  {:.0} refused/s  {lost} lost",
                rate(refused)
            ));
            lines.push(format!("  {kept}  {udp}  {:.0} s left", left.as_secs_f64().ceil()));
            self.draw(&lines);
        } else {
            let rates: Vec<_> = rates.iter().map(|(rate, _)| format!("{rate:4.0}")).collect();
            let text = format!(
                "  {}/s by backend-1…{BACKENDS} | {answered:.0}/s  {times}  {:.0} refused/s  {lost} lost | {kept} | {udp}",
                rates.join(" "),
                rate(refused)
            );
            self.say(&text);
        }
    }

    fn draw(&mut self, lines: &[String]) {
        self.erase();
        let width = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(80, |size| usize::from(size.ws_col));
        let mut text = String::new();
        for line in lines {
            // A line that wraps would make the block higher than was counted.
            text.extend(line.chars().take(width.saturating_sub(1)));
            text.push('\n');
        }
        let mut out = std::io::stdout();
        let _closed = write!(out, "{text}").and_then(|()| out.flush());
        self.drawn = lines.len();
    }

    /// Takes the block away again.
    fn erase(&mut self) {
        if self.drawn > 0 {
            // Up to its first line, then clear to the end.
            let _closed = write!(std::io::stdout(), "\x1b[{}F\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }
}

fn bar(share: f64) -> String {
    let eighths = (share.clamp(0.0, 1.0) * (BAR_MAX * 8) as f64) as usize;
    let mut text = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        text.push(EIGHTHS[eighths % 8]);
    }
    let blank = BAR_MAX - text.chars().count();
    text + &" ".repeat(blank)
}

#[cfg(test)]
mod tests {
    use super::{BAR_MAX, bar};

    #[test]
    fn bars_have_one_width() {
        for share in [0.0, 0.013, 0.5, 0.999, 1.0, 7.0] {
            assert_eq!(bar(share).chars().count(), BAR_MAX, "{share}");
        }
        assert_eq!(bar(0.0).trim(), "");
        assert!(!bar(1.0).contains(' '));
    }
}
