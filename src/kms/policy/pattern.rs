//! Comparing texts: without their case, and with patterns.

/// Unicode's full case folding: texts that differ only in case become equal. (Lower case is not enough: it maps a Greek capital
/// sigma to one of two small ones, by its position.)
pub fn fold_case(text: &str) -> String {
    unicase::UniCase::new(text).to_folded_case()
}

/// Whether a text matches a pattern in which `*` matches any characters and `?` matches one.
pub(super) fn wild(pattern: &str, text: &str, any_case: bool) -> bool {
    let fold = |s: &str| if any_case { fold_case(s) } else { s.to_owned() };
    let (pattern, text): (Vec<char>, Vec<char>) = (fold(pattern).chars().collect(), fold(text).chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where to continue if what follows the last star does not match.
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
