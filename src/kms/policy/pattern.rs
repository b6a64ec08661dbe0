//! Comparing texts: without their case, and with patterns.

/// A text without its case, by Unicode's full case folding: what differs in case alone is the same in it. (Lower case is not
/// enough: of the two small sigmas of Greek, it makes one or the other, by their place.)
pub fn fold_case(text: &str) -> String {
    unicase::UniCase::new(text).to_folded_case()
}

/// Whether a text fits a pattern in which `*` stands for any characters and `?` for one.
pub(super) fn wild(pattern: &str, text: &str, any_case: bool) -> bool {
    let fold = |s: &str| if any_case { fold_case(s) } else { s.to_owned() };
    let (pattern, text): (Vec<char>, Vec<char>) = (fold(pattern).chars().collect(), fold(text).chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star does not fit.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((after, from)) => {
                    star = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}
