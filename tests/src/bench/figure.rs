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
    /// In which unit: `ns`, `ms`, `s`, `MiB`, or `ratio`.
    pub unit: &'static str,
    /// How much.
    pub value: f64,
    /// How much it may be.
    pub bar: Option<f64>,
    /// Width of the samples' middle half, as a share of their median.
    pub noise: f64,
}

/// How a figure stands to its bar.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It has none.
    NoBar,
    /// It is under it.
    Holds,
    /// It is over it.
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

    /// With a bar.
    #[must_use]
    pub fn at_most(self, bar: f64) -> Self {
        Self { bar: Some(bar), ..self }
    }

    /// Whether it holds.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let Some(bar) = self.bar else { return Verdict::NoBar };
        // Half of the spread lies on either side of the median.
        let spread = self.value.abs() * self.noise / 2.0;
        if self.noise > NOISE_MAX && (self.value - bar).abs() < spread {
            Verdict::TooNoisy
        } else if self.value <= bar {
            Verdict::Holds
        } else {
            Verdict::Missed
        }
    }

    fn number(&self, value: f64) -> String {
        let decimals = match self.unit {
            "ratio" | "s" | "ms" => 2,
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
            write!(f, "  ≤ {:>6}", self.number(bar))?;
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
        let mut object = serializer.serialize_struct("Figure", 5)?;
        object.serialize_field("name", &self.name)?;
        object.serialize_field("unit", self.unit)?;
        object.serialize_field("value", &self.value)?;
        object.serialize_field("bar", &self.bar)?;
        object.serialize_field("holds", &holds)?;
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(value: f64, bar: Option<f64>, noise: f64) -> Figure {
        Figure {
            bar,
            ..Figure::new("packet/x".to_owned(), "ratio", value, noise)
        }
    }

    #[test]
    fn verdicts() {
        for (value, bar, noise, expected) in [
            (1.5, None, 0.0, Verdict::NoBar),
            (1.5, Some(1.6), 0.0, Verdict::Holds),
            (1.6, Some(1.6), 0.01, Verdict::Holds),
            (1.61, Some(1.6), 0.01, Verdict::Missed),
            // Noisy, but far away from the bar on either side.
            (0.5, Some(1.6), 0.3, Verdict::Holds),
            (3.0, Some(1.6), 0.3, Verdict::Missed),
            (1.5, Some(1.6), 0.3, Verdict::TooNoisy),
            (1.7, Some(1.6), 0.3, Verdict::TooNoisy),
        ] {
            assert_eq!(figure(value, bar, noise).verdict(), expected, "{value} {bar:?} {noise}");
        }
    }

    #[test]
    fn as_json() {
        let json = serde_json::to_value([figure(1.7, Some(1.6), 0.0), figure(1.7, None, 0.0)]).unwrap();
        let expected = serde_json::json!([
            {"name": "packet/x", "unit": "ratio", "value": 1.7, "bar": 1.6, "holds": false},
            {"name": "packet/x", "unit": "ratio", "value": 1.7, "bar": null, "holds": null},
        ]);
        assert_eq!(json, expected);
    }
}
