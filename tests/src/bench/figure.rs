//! A figure: what was measured, the bar it is held to, and how both are shown. Not here: how it was measured.

use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

/// Samples whose middle half is spread wider than this share of the median say nothing about a bar.
pub const NOISE_MAX: f64 = 0.15;

/// What was measured.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What, from the general to the special: `packet/tc-ingress/v4/tcp/established/flows=1000`.
    pub name: String,
    /// In which unit: `ns`, `µs`, `ms`, `s`, `MiB`, `%`, `frames/s`, `conn/s`, or `ratio`.
    pub unit: &'static str,
    /// How much.
    pub value: f64,
    /// How much it may or has to be.
    pub bar: Option<Bar>,
    /// Width of the samples' middle half, as a share of their median.
    pub noise: f64,
}

/// What a figure is held to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Bar {
    /// It may be so much.
    AtMost(f64),
    /// It has to be so much.
    AtLeast(f64),
}

impl Bar {
    /// The number.
    #[must_use]
    pub fn value(self) -> f64 {
        match self {
            Self::AtMost(value) | Self::AtLeast(value) => value,
        }
    }

    /// Whether a figure is on the right side of it.
    #[must_use]
    pub fn allows(self, figure: f64) -> bool {
        match self {
            Self::AtMost(most) => figure <= most,
            Self::AtLeast(least) => figure >= least,
        }
    }

    /// In one character.
    fn sign(self) -> char {
        match self {
            Self::AtMost(_) => '≤',
            Self::AtLeast(_) => '≥',
        }
    }
}

/// How a figure stands to its bar.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It has none.
    NoBar,
    /// It is on the right side of it.
    Holds,
    /// It is on the other side.
    Missed,
    /// Its samples differ too much, and they don't all lie on one side.
    TooNoisy,
}

impl Figure {
    /// A figure without a bar.
    #[must_use]
    pub fn new(name: String, unit: &'static str, value: f64, noise: f64) -> Self {
        Self {
            name,
            unit,
            value,
            bar: None,
            noise,
        }
    }

    /// With a bar above it.
    #[must_use]
    pub fn at_most(self, most: f64) -> Self {
        let bar = Some(Bar::AtMost(most));
        Self { bar, ..self }
    }

    /// With a bar below it.
    #[must_use]
    pub fn at_least(self, least: f64) -> Self {
        let bar = Some(Bar::AtLeast(least));
        Self { bar, ..self }
    }

    /// Whether it holds.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let Some(bar) = self.bar else { return Verdict::NoBar };
        // Half of the spread lies on either side of the median.
        let spread = self.value.abs() * self.noise / 2.0;
        if self.noise > NOISE_MAX && (self.value - bar.value()).abs() < spread {
            Verdict::TooNoisy
        } else if bar.allows(self.value) {
            Verdict::Holds
        } else {
            Verdict::Missed
        }
    }

    fn number(&self, value: f64) -> String {
        let decimals = match self.unit {
            "ratio" | "s" | "ms" => 2,
            "frames/s" | "conn/s" => 0,
            _ => 1,
        };
        format!("{value:.decimals$}")
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if self.unit == "ratio" { "×" } else { self.unit };
        write!(f, "{:<62} {:>9} {unit:<3}", self.name, self.number(self.value))?;
        if let Some(bar) = self.bar {
            write!(f, "  {} {:>6}", bar.sign(), self.number(bar.value()))?;
        }
        match self.verdict() {
            Verdict::NoBar => Ok(()),
            Verdict::Holds => write!(f, "  holds"),
            Verdict::Missed => write!(f, "  MISSED"),
            Verdict::TooNoisy => write!(f, "  too noisy to judge (±{:.0} %)", self.noise * 50.0),
        }
    }
}

impl Serialize for Figure {
    /// `holds` is null for a figure without a bar and for one that can't be judged.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let holds = match self.verdict() {
            Verdict::Holds => Some(true),
            Verdict::Missed => Some(false),
            Verdict::NoBar | Verdict::TooNoisy => None,
        };
        let bound = self.bar.map(|bar| match bar {
            Bar::AtMost(_) => "at most",
            Bar::AtLeast(_) => "at least",
        });
        let mut object = serializer.serialize_struct("Figure", 6)?;
        object.serialize_field("name", &self.name)?;
        object.serialize_field("unit", self.unit)?;
        object.serialize_field("value", &self.value)?;
        object.serialize_field("bar", &self.bar.map(Bar::value))?;
        object.serialize_field("bound", &bound)?;
        object.serialize_field("holds", &holds)?;
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(value: f64, bar: Option<Bar>, noise: f64) -> Figure {
        Figure {
            bar,
            ..Figure::new("packet/x".to_owned(), "ratio", value, noise)
        }
    }

    #[test]
    fn verdicts() {
        let (most, least) = (Some(Bar::AtMost(1.6)), Some(Bar::AtLeast(0.6)));
        for (value, bar, noise, expected) in [
            (1.5, None, 0.0, Verdict::NoBar),
            (1.5, most, 0.0, Verdict::Holds),
            (1.6, most, 0.01, Verdict::Holds),
            (1.61, most, 0.01, Verdict::Missed),
            // Noisy, but far away from the bar on either side.
            (0.5, most, 0.3, Verdict::Holds),
            (3.0, most, 0.3, Verdict::Missed),
            (1.5, most, 0.3, Verdict::TooNoisy),
            (1.7, most, 0.3, Verdict::TooNoisy),
            (0.6, least, 0.01, Verdict::Holds),
            (0.59, least, 0.01, Verdict::Missed),
            (0.9, least, 0.3, Verdict::Holds),
            (0.3, least, 0.3, Verdict::Missed),
            (0.55, least, 0.3, Verdict::TooNoisy),
        ] {
            assert_eq!(figure(value, bar, noise).verdict(), expected, "{value} {bar:?} {noise}");
        }
    }

    #[test]
    fn as_json() {
        let (most, least) = (Some(Bar::AtMost(1.6)), Some(Bar::AtLeast(1.6)));
        let json = serde_json::to_value([most, least, None].map(|bar| figure(1.7, bar, 0.0))).unwrap();
        let expected = serde_json::json!([
            {"name": "packet/x", "unit": "ratio", "value": 1.7, "bar": 1.6, "bound": "at most", "holds": false},
            {"name": "packet/x", "unit": "ratio", "value": 1.7, "bar": 1.6, "bound": "at least", "holds": true},
            {"name": "packet/x", "unit": "ratio", "value": 1.7, "bar": null, "bound": null, "holds": null},
        ]);
        assert_eq!(json, expected);
    }
}
