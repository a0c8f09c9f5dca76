//! Tables of legacy iptables are made here as the kernel makes them, for what is left of them to be compared.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

/// The hooks of table `nat`: all but FORWARD.
const VALID: u32 = 0b11011;

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Does {
    /// A verdict, as `-1` for DROP.
    Ends(i32),
    /// Goes to the chain with this name.
    Leads(String),
    /// Nothing but to count.
    Counts,
    /// What a target with a name does.
    Extension(&'static str),
}

#[derive(Clone, Debug)]
struct Rule {
    does: Does,
    /// Octets of matches, in units of eight.
    matches: usize,
    /// By which it is known again.
    mark: u8,
}

#[derive(Clone, Debug, Default)]
struct Model {
    /// By hook.
    built_in: [Vec<Rule>; HOOKS],
    chains: Vec<(String, Vec<Rule>)>,
}

fn rule(does: Does) -> Rule {
    Rule {
        does,
        matches: 0,
        mark: 7,
    }
}

fn leads(to: &str) -> Rule {
    rule(Does::Leads(to.to_owned()))
}

fn entry(format: Format, rule: &Rule, name: &str, own: &[u8]) -> Vec<u8> {
    let to_target = format.head_len + 8 * rule.matches;
    let target_len = TARGET_LEN + own.len().next_multiple_of(8);
    let mut octets = vec![rule.mark; to_target];
    octets.resize(to_target + target_len, 0);
    let mut put = |at: usize, value: usize| {
        let value = u16::try_from(value).expect("it is short");
        octets[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    };
    put(format.offsets_at, to_target);
    put(format.offsets_at + 2, to_target + target_len);
    put(to_target, target_len);
    octets[to_target + 2..][..name.len()].copy_from_slice(name.as_bytes());
    octets[to_target + TARGET_LEN..][..own.len()].copy_from_slice(own);
    octets
}

fn name(format: Format, name: &str) -> Vec<u8> {
    let mut own = [0; NAME_LEN];
    own[..name.len()].copy_from_slice(name.as_bytes());
    entry(format, &rule(Does::Ends(0)), NAMES, &own)
}

fn verdict(format: Format, rule: &Rule, verdict: i32) -> Vec<u8> {
    entry(format, rule, "", &verdict.to_ne_bytes())
}

impl Model {
    /// The table as the kernel has it.
    fn build(&self, format: Format) -> Ruleset {
        // Lengths don't depend on places: first with none, then with those of the chains.
        let (_, places) = self.lay_out(format, &BTreeMap::new());
        self.lay_out(format, &places).0
    }

    fn lay_out(&self, format: Format, places: &BTreeMap<String, usize>) -> (Ruleset, BTreeMap<String, usize>) {
        let mut ruleset = Ruleset {
            hooks: Hooks {
                valid: VALID,
                ..Hooks::default()
            },
            ..Ruleset::default()
        };
        let mut found = BTreeMap::new();
        let mut put = |block: &mut Vec<u8>, octets: Vec<u8>| {
            ruleset.count += 1;
            block.extend(octets);
        };
        let rules = |block: &mut Vec<u8>, all: &[Rule], put: &mut dyn FnMut(&mut Vec<u8>, Vec<u8>)| {
            for rule in all {
                let octets = match &rule.does {
                    Does::Ends(number) => verdict(format, rule, *number),
                    Does::Leads(to) => {
                        let place = places.get(to).copied().unwrap_or_default();
                        verdict(format, rule, i32::try_from(place).expect("it is short"))
                    }
                    Does::Counts => {
                        let len = verdict(format, rule, 0).len();
                        verdict(format, rule, i32::try_from(block.len() + len).expect("it is short"))
                    }
                    Does::Extension(name) => entry(format, rule, name, &[9; 8]),
                };
                put(block, octets);
            }
        };
        let mut block = Vec::new();
        for hook in (0..HOOKS).filter(|hook| VALID & (1 << hook) != 0) {
            ruleset.hooks.first[hook] = u32::try_from(block.len()).expect("it is short");
            rules(&mut block, &self.built_in[hook], &mut put);
            ruleset.hooks.policy[hook] = u32::try_from(block.len()).expect("it is short");
            put(&mut block, verdict(format, &rule(Does::Ends(-2)), -2));
        }
        for (chain, all) in &self.chains {
            put(&mut block, name(format, chain));
            found.insert(chain.clone(), block.len());
            rules(&mut block, all, &mut put);
            put(&mut block, verdict(format, &rule(Does::Ends(-5)), -5));
        }
        put(&mut block, name(format, NAMES));
        ruleset.block = block;
        (ruleset, found)
    }

    fn without_own(&self) -> Self {
        let stays = |rule: &&Rule| !matches!(&rule.does, Does::Leads(to) if is_own(to));
        let left = |rules: &Vec<Rule>| rules.iter().filter(stays).cloned().collect();
        let chains = self.chains.iter().filter(|(name, _)| !is_own(name));
        Self {
            built_in: self.built_in.each_ref().map(left),
            chains: chains.map(|(name, rules)| (name.clone(), left(rules))).collect(),
        }
    }
}

fn is_own(name: &str) -> bool {
    name.starts_with("KUBE-SVC-")
}

fn left(ruleset: &Ruleset) -> Rest {
    ruleset.without(Format::V4, is_own).expect("it is understood")
}

/// What stands in a block, a word an entry.
fn words(ruleset: &Ruleset) -> String {
    let mut text = String::new();
    for entry in ruleset.entries(Format::V4).expect("it is understood") {
        match entry.kind {
            Kind::Name(name) => write!(text, "{name}: "),
            Kind::Jump(to) if to == entry.end => write!(text, "counts "),
            Kind::Jump(to) => write!(text, ">{to} "),
            Kind::Rule => write!(text, "rule "),
        }
        .expect("a string");
    }
    text.trim_end().to_owned()
}

#[test]
fn chains_go_with_the_rules_that_lead_to_them() {
    let mut model = Model {
        chains: vec![
            ("CNI".to_owned(), vec![leads("KUBE-SVC-A"), leads("POLICY")]),
            (
                "KUBE-SVC-A".to_owned(),
                vec![leads("CNI"), rule(Does::Extension("DNAT"))],
            ),
            ("POLICY".to_owned(), vec![rule(Does::Counts), rule(Does::Ends(-1))]),
        ],
        ..Model::default()
    };
    model.built_in[0] = vec![leads("KUBE-SVC-A"), leads("CNI")];
    model.built_in[3] = vec![leads("KUBE-SVC-A")];
    let rest = left(&model.build(Format::V4));
    // An entry with a verdict has 152 octets, a name 176.
    assert_eq!(
        words(&rest.ruleset),
        format!(
            ">{} rule rule rule rule CNI: >{} rule POLICY: counts rule rule ERROR:",
            5 * 152 + 176,
            7 * 152 + 2 * 176
        )
    );
    assert_eq!(rest.chains, 1);
    assert_eq!(rest.kept, [1, 2, 3, 5, 6, 7, 9, 10, 15, 16, 17, 18, 19]);
    assert_eq!(rest.ruleset.hooks.first, [0, 2 * 152, 0, 3 * 152, 4 * 152]);
    assert_eq!(rest.ruleset.hooks.policy, [152, 2 * 152, 0, 3 * 152, 4 * 152]);
}

#[test]
fn what_is_not_as_the_kernel_makes_it_is_refused() {
    let mut model = Model::default();
    model.built_in[0] = vec![rule(Does::Leads("CNI".to_owned()))];
    model.chains = vec![("CNI".to_owned(), vec![])];
    let good = model.build(Format::V4);
    let what = |spoil: &dyn Fn(&mut Ruleset)| {
        let mut ruleset = good.clone();
        spoil(&mut ruleset);
        ruleset.without(Format::V4, is_own).expect_err("it is refused").what
    };
    let jump = 112 + TARGET_LEN;
    assert_eq!(what(&|bad| bad.count += 1), "it has not as many entries as it says");
    assert_eq!(what(&|bad| bad.block.truncate(200)), "an entry is cut off");
    assert_eq!(what(&|bad| bad.block[90] = 0), "an entry is cut off");
    assert_eq!(what(&|bad| bad.block[88] = 0), "a target is where matches are");
    assert_eq!(what(&|bad| bad.block[jump] ^= 8), "a rule leads to what is no chain");
    assert_eq!(what(&|bad| bad.hooks.policy[0] = 1), "a hook leads to what is no chain");
}

const NAMES_OF_CHAINS: [&str; 5] = ["KUBE-SVC-A", "CNI", "KUBE-SVC-B", "POLICY", "KUBE-ROUTER"];

fn any_rule() -> impl Strategy<Value = Rule> {
    let does = prop_oneof![
        prop::sample::select(vec![-1, -2, -5]).prop_map(Does::Ends),
        prop::sample::select(NAMES_OF_CHAINS.to_vec()).prop_map(|name| Does::Leads(name.to_owned())),
        Just(Does::Counts),
        Just(Does::Extension("DNAT")),
    ];
    (does, 0..4_usize, any::<u8>()).prop_map(|(does, matches, mark)| Rule { does, matches, mark })
}

fn any_model() -> impl Strategy<Value = Model> {
    let rules = || prop::collection::vec(any_rule(), 0..5);
    let built_in = [rules(), rules(), rules(), rules(), rules()];
    let chains = NAMES_OF_CHAINS.map(|_| rules());
    (built_in, chains, Just(NAMES_OF_CHAINS).prop_shuffle()).prop_map(|(built_in, chains, names)| Model {
        built_in,
        chains: names.map(str::to_owned).into_iter().zip(chains).collect(),
    })
}

proptest! {
    #[test]
    fn what_is_left_is_the_table_as_if_the_rest_had_never_been_there(model in any_model(), is_v6 in any::<bool>()) {
        let format = if is_v6 { Format::V6 } else { Format::V4 };
        let before = model.build(format);
        let rest = before.without(format, is_own).expect("it is understood");
        prop_assert_eq!(rest.ruleset, model.without_own().build(format));
        prop_assert_eq!(rest.chains, 2);
        let nothing_goes = before.without(format, |_| false).expect("it is understood");
        prop_assert_eq!(nothing_goes.ruleset, before);
    }

    #[test]
    fn no_octets_break_it(
        model in any_model(),
        spoilt in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        hooks in any::<[u32; HOOKS]>(),
    ) {
        let mut ruleset = model.build(Format::V4);
        for (at, octet) in spoilt {
            let at = at.index(ruleset.block.len());
            ruleset.block[at] = octet;
        }
        // Whatever comes out, it doesn't panic.
        let _ = ruleset.without(Format::V4, is_own);
        ruleset.hooks.first = hooks;
        let _ = ruleset.without(Format::V4, is_own);
    }
}
