//! Descriptors: nobody opens one without a permit, and nobody can take what another class needs.
//!
//! Every class has a *reserve*, descriptors that only it may take; what is not reserved goes to
//! whoever comes first. Visitors and callers have no reserve, so however many come, the kit can
//! still take a lane, answer its operator and open a listener.
//!
//! Visitors who find nothing left are told so (`503`): for that there is a class of its own,
//! [`Class::Refusal`]. When that is used up too, [`FdBudget::accepting`] turns false and they wait
//! in the kernel's backlog, until 90 % or less of what visitors may have is in use.
//!
//! Invariant: permits that are out, by class, are exactly the descriptors that the machine has open
//! or asked its host to open. [`FdBudget::out`] lets the owner of the permits check that.

/// What a descriptor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A listening socket.
    Listener,
    /// A connection to the kit's own listener that has proven nothing yet, or asks as operator.
    Front,
    /// A session's WebSocket.
    Lane,
    /// A visitor who is only told that there is no room.
    Refusal,
    /// A visitor to an EXPOSE port.
    Visitor,
    /// A caller to a PULL port.
    Caller,
    /// A connection that a client asked for.
    Forward,
    /// A connection that was told all it will be told, and only lingers so that it hears it. It has
    /// no reserve, has a cap, and its place is anybody's who wants one.
    Leaving,
}

/// The right to have one descriptor open. Given back to its budget by value: it is neither copied
/// nor made elsewhere, and dropping it loses a descriptor for good.
#[must_use = "a permit must be kept with its descriptor and given back with FdBudget::give_back"]
#[derive(Debug)]
pub struct FdPermit {
    class: Class,
}

impl FdPermit {
    /// What it is for.
    pub fn class(&self) -> Class {
        self.class
    }
}

/// How many descriptors there are, who has them, and who must be able to get some.
#[derive(Debug)]
pub struct FdBudget {
    total: usize,
    out: [usize; CLASSES],
    reserve: [usize; CLASSES],
    accepting: bool,
}

/// How many the classes with a reserve could use at most.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// Listeners, the kit's own counted.
    pub listeners: usize,
    /// Connections that have not proven anything, and operators.
    pub fronts: usize,
    /// WebSockets of all sessions.
    pub lanes: usize,
}

impl FdBudget {
    /// A budget of `total` descriptors. No reserve is more than an eighth of it.
    pub fn new(total: usize, needs: Needs) -> FdBudget {
        let share = (total / 8).max(1);
        let mut reserve = [0; CLASSES];
        reserve[Class::Listener as usize] = needs.listeners.min(share);
        reserve[Class::Front as usize] = needs.fronts.min(share);
        reserve[Class::Lane as usize] = needs.lanes.min(share);
        let rest = total.saturating_sub(reserve.iter().sum());
        // An eighth is more than the tenth below which accepting goes on, so that refusing goes on
        // too while long visits fill everything else.
        reserve[Class::Refusal as usize] = rest.div_ceil(8).max(2).min(rest);
        FdBudget {
            total,
            out: [0; CLASSES],
            reserve,
            accepting: true,
        }
    }

    /// A permit, if there is one for `class`.
    pub fn take(&mut self, class: Class) -> Option<FdPermit> {
        if self.room(class) == 0 {
            self.note_room();
            return None;
        }
        self.out[class as usize] += 1;
        self.note_room();
        Some(FdPermit { class })
    }

    /// Takes a permit home. Its descriptor is closed, or the host will close it before it opens
    /// another.
    pub fn give_back(&mut self, permit: FdPermit) {
        let out = &mut self.out[permit.class as usize];
        assert!(*out > 0, "a permit came home that was never out");
        *out -= 1;
        self.note_room();
    }

    /// Turns a permit into one of another class, when its descriptor turns out to be for something
    /// else. False, and nothing changed, when that class has no room.
    pub fn reclass(&mut self, permit: &mut FdPermit, class: Class) -> bool {
        // The descriptor is counted once, so its old place is free for the new one.
        self.out[permit.class as usize] -= 1;
        let fits = self.room(class) > 0;
        if fits {
            permit.class = class;
        }
        self.out[permit.class as usize] += 1;
        self.note_room();
        fits
    }

    /// Whether listeners should accept visitors and callers.
    pub fn accepting(&self) -> bool {
        self.accepting
    }

    /// Permits that visits have or could have.
    pub fn for_visits(&self) -> usize {
        self.room(Class::Visitor) + self.visits()
    }

    /// Permits that visits have.
    fn visits(&self) -> usize {
        self.out(Class::Visitor) + self.raw()
    }

    /// Permits of those who keep theirs for as long as they like.
    fn raw(&self) -> usize {
        self.out(Class::Caller) + self.out(Class::Forward)
    }

    /// Permits that are left for connections which clients ask for.
    pub fn left_for_dials(&self) -> usize {
        self.room(Class::Forward)
    }

    /// Permits at home.
    pub fn available(&self) -> usize {
        self.total.saturating_sub(self.used())
    }

    /// Permits that are out.
    pub fn used(&self) -> usize {
        self.out.iter().sum()
    }

    /// Permits of one class that are out.
    pub fn out(&self, class: Class) -> usize {
        self.out[class as usize]
    }

    /// Whether a class has more than what is kept for it.
    pub fn exceeds_reserve(&self, class: Class) -> bool {
        self.out(class) > self.reserve[class as usize]
    }

    /// How many more `class` could take: what is free but for the others' unused reserves.
    fn room(&self, class: Class) -> usize {
        let kept: usize = (0..CLASSES)
            .filter(|other| *other != class as usize)
            .map(|other| self.reserve[other].saturating_sub(self.out[other]))
            .sum();
        let free = self.available().saturating_sub(kept);
        match class {
            // Refusals beyond their reserve would take the place of visits.
            Class::Refusal => free.min(self.reserve[Class::Refusal as usize] - self.out(class)),
            // Callers keep theirs for as long as they like, so the last part is for visitors.
            Class::Caller | Class::Forward => {
                let all = self.for_visits();
                free.min((all - all / 8).saturating_sub(self.raw()))
            }
            Class::Leaving => free.min((self.total / 8).saturating_sub(self.out(class))),
            _ => free,
        }
    }

    /// Turns accepting off when neither a visit nor a refusal has room, and on again when at least
    /// a tenth of what they may have is free.
    fn note_room(&mut self) {
        let free = self.room(Class::Visitor) + self.room(Class::Refusal);
        if free == 0 {
            self.accepting = false;
        } else if !self.accepting {
            let used = self.visits() + self.out(Class::Refusal);
            self.accepting = used <= (used + free) / 10 * 9 + (used + free) % 10 * 9 / 10;
        }
    }

    /// The invariants that tie the counts together.
    pub fn check_invariants(&self) {
        assert!(
            self.used() <= self.total,
            "more permits are out than there are"
        );
        assert!(
            self.out(Class::Refusal) <= self.reserve[Class::Refusal as usize],
            "refusals never go beyond their reserve"
        );
        assert!(
            self.accepting || self.used() > 0,
            "with every permit at home somebody can be accepted"
        );
    }
}

const CLASSES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::Entropy;

    const NEEDS: Needs = Needs {
        listeners: 65,
        fronts: 36,
        lanes: 128,
    };

    fn fill(budget: &mut FdBudget, class: Class) -> Vec<FdPermit> {
        std::iter::from_fn(|| budget.take(class)).collect()
    }

    #[test]
    fn callers_leave_the_last_part_of_all_places_to_visitors() {
        for total in [64, 1000, 4096] {
            let mut budget = FdBudget::new(total, NEEDS);
            let all = budget.for_visits();
            let mut callers = fill(&mut budget, Class::Caller);
            assert_eq!(callers.len(), all - all / 8);
            assert_eq!(fill(&mut budget, Class::Visitor).len(), all / 8);
            // What a visitor leaves is no caller's.
            budget.give_back(callers.pop().unwrap());
            assert!(budget.take(Class::Caller).is_some());
            budget.check_invariants();
        }
    }

    #[test]
    fn visitors_cannot_eat_what_lanes_listeners_and_operators_need() {
        for total in [24, 48, 64, 1000, 4096] {
            let mut budget = FdBudget::new(total, NEEDS);
            let visitors = fill(&mut budget, Class::Visitor);
            let callers = fill(&mut budget, Class::Caller);
            assert!(!visitors.is_empty() && callers.is_empty());
            for class in [Class::Listener, Class::Front, Class::Lane, Class::Refusal] {
                let share = (total / 8).min(36);
                let taken = fill(&mut budget, class);
                assert!(
                    taken.len() >= share.min(2),
                    "{class:?} of {total}: {}",
                    taken.len()
                );
                budget.check_invariants();
            }
            assert_eq!(budget.available(), 0);
        }
    }

    #[test]
    fn a_visitor_at_the_cap_can_be_refused_in_words() {
        let mut budget = FdBudget::new(48, NEEDS);
        let mut visitors = fill(&mut budget, Class::Visitor);
        assert!(
            budget.accepting(),
            "the next one is accepted, to hear the refusal"
        );
        let mut refusals = fill(&mut budget, Class::Refusal);
        assert!(!refusals.is_empty());
        assert!(!budget.accepting());
        budget.give_back(visitors.pop().unwrap());
        assert!(!budget.accepting(), "one place is less than a tenth");
        for permit in refusals.drain(..) {
            budget.give_back(permit);
        }
        assert!(
            budget.accepting(),
            "refusing goes on while visits fill the rest"
        );
    }

    #[test]
    fn accepting_goes_on_at_ninety_percent() {
        let mut budget = FdBudget::new(4096, NEEDS);
        let mut held = fill(&mut budget, Class::Visitor);
        held.extend(fill(&mut budget, Class::Refusal));
        let all = held.len();
        let mut given = 0;
        while !budget.accepting() {
            budget.give_back(held.pop().unwrap());
            given += 1;
        }
        assert_eq!(given, all.div_ceil(10));
    }

    #[test]
    fn a_permit_changes_class_without_leaving() {
        let mut budget = FdBudget::new(48, NEEDS);
        let mut permit = budget.take(Class::Front).unwrap();
        assert!(budget.reclass(&mut permit, Class::Lane));
        assert_eq!((budget.out(Class::Front), budget.out(Class::Lane)), (0, 1));
        let rest = fill(&mut budget, Class::Lane);
        let mut front = budget.take(Class::Front).unwrap();
        assert!(!budget.reclass(&mut front, Class::Lane));
        assert_eq!(front.class(), Class::Front);
        for permit in rest.into_iter().chain([permit, front]) {
            budget.give_back(permit);
        }
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn who_has_what_is_kept_for_it_exceeds_nothing_and_with_one_more_it_does() {
        let mut budget = FdBudget::new(48, NEEDS);
        let reserve = budget.reserve[Class::Front as usize];
        for _ in 0..reserve {
            assert!(budget.take(Class::Front).is_some());
            assert!(!budget.exceeds_reserve(Class::Front));
        }
        assert!(budget.take(Class::Front).is_some());
        assert!(budget.exceeds_reserve(Class::Front));
    }

    #[test]
    fn what_visits_may_have_does_not_depend_on_how_many_there_are() {
        let mut budget = FdBudget::new(48, NEEDS);
        let all = budget.for_visits();
        let mut held: Vec<FdPermit> = [Class::Visitor, Class::Visitor, Class::Caller]
            .into_iter()
            .filter_map(|class| budget.take(class))
            .collect();
        assert_eq!((held.len(), budget.for_visits()), (3, all));
        held.extend(fill(&mut budget, Class::Visitor));
        assert_eq!((held.len(), budget.for_visits()), (all, all));
    }

    #[test]
    #[should_panic(expected = "refusals never go beyond their reserve")]
    fn a_refusal_in_a_visits_place_is_noticed() {
        let mut budget = FdBudget::new(48, NEEDS);
        budget.out[Class::Refusal as usize] = budget.reserve[Class::Refusal as usize] + 1;
        budget.check_invariants();
    }

    #[test]
    fn whatever_comes_and_goes_all_permits_come_home() {
        const ALL: [Class; CLASSES] = [
            Class::Listener,
            Class::Front,
            Class::Lane,
            Class::Refusal,
            Class::Visitor,
            Class::Caller,
            Class::Forward,
            Class::Leaving,
        ];
        let mut entropy = Entropy::from_seed(3);
        let mut budget = FdBudget::new(48, NEEDS);
        let mut held = Vec::new();
        for _ in 0..20_000 {
            let class = ALL[entropy.below(CLASSES as u32) as usize];
            match entropy.below(5) {
                0 | 1 => held.extend(budget.take(class)),
                2 if !held.is_empty() => {
                    let at = entropy.below(held.len() as u32) as usize;
                    budget.reclass(&mut held[at], class);
                }
                _ if !held.is_empty() => {
                    let at = entropy.below(held.len() as u32) as usize;
                    budget.give_back(held.swap_remove(at));
                }
                _ => {}
            }
            budget.check_invariants();
            assert_eq!(budget.used(), held.len());
        }
        for permit in held {
            budget.give_back(permit);
        }
        assert_eq!(budget.available(), 48);
        assert!(budget.accepting());
    }
}
