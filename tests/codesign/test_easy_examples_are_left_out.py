"""KAKURENBO and dynamic data pruning: who is left out, who comes back, and that what is left fills whole batches."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.example_choice import ExampleChoice
from codesign.method import Context, Place
from codesign.recipes import recipe, settings_of

IMAGES = 8
X = torch.arange(IMAGES, dtype=torch.float32).reshape(-1, 1)
Y = torch.zeros(IMAGES, dtype=torch.int64)


def method_of(name: str, **settings: object) -> ExampleChoice:
    model = nn.Linear(1, 2)
    losses = nn.CrossEntropyLoss(reduction="none")
    context = Context(model, torch.optim.SGD(model.parameters(), 0.1), None, X[:1], 2, F.cross_entropy, losses, 0, 10)
    method: ExampleChoice = recipe(name).make(settings_of({"name": name, **settings}), context)
    return method


def epoch_of(method: ExampleChoice, epoch: int, said: Tensor | None = None, epochs: int = 9) -> list[list[int]]:
    """The examples of each step of an epoch of two batches; said: the logits that the network is taken to give."""
    steps = []
    for batch in (0, 1):
        numbers = torch.arange(4) + 4 * batch
        made = method.prepare(X[numbers], Y[numbers], Place(epoch, epochs, batch, 2, numbers))
        if made is not None:
            steps.append([int(value) for value in made.x[:, 0]])
            method.loss((torch.zeros(IMAGES, 2) if said is None else said)[made.x[:, 0].long()], made)
    return steps


# Label 0.  Confidence of right answers falls from example 0 on; 3 is confidently wrong; 4 to 7 are unsure.
SAID = torch.tensor([[6.0, 0.0], [5.0, 0.0], [4.0, 0.0], [0.0, 5.0], [0.3, 0.0], [0.2, 0.0], [0.1, 0.0], [0.0, 0.1]])


def test_the_easiest_are_hidden_but_for_the_unsure_and_the_wrong() -> None:
    method = method_of("kakurenbo", hide=0.5, sure=0.7)
    assert epoch_of(method, 0, SAID) == [[0, 1, 2, 3], [4, 5, 6, 7]]  # nothing is known yet
    # The half of lowest loss is 0, 1, 2 and 4, of which 4 is too unsure to hide; five examples are one step and a rest.
    assert epoch_of(method, 1, SAID) == [[3, 4, 5, 6]]
    assert method.taken.tolist() == [False, False, False, True, True, True, True, True]
    assert method.row()["examples_left_out"] == 3
    assert epoch_of(method, 2, SAID, epochs=3)[0][0] == 7  # it waited for a whole batch


def test_hidden_examples_run_forward_and_come_back_when_they_are_no_longer_easy() -> None:
    method = method_of("kakurenbo", hide=0.5, sure=0.7)
    epoch_of(method, 0, SAID)
    with torch.no_grad():  # by now the network is wrong about every example but 0
        method.context.model.weight.copy_(torch.tensor([[-9.0], [9.0]]))
        method.context.model.bias.copy_(torch.tensor([1.0, 0.0]))
    made = method.prepare(X[:4], Y[:4], Place(1, 9, 0, 2, torch.arange(4)))
    assert made is None  # 3 alone is no batch
    assert method.macs(6, 4, made) == 3 * method.forward_macs == 3 * 2
    assert method.memory["right"][:3].tolist() == [1.0, 0.0, 0.0]
    assert not method.choose(Place(2, 9, 0, 2))[0] and bool(method.choose(Place(2, 9, 0, 2))[1:3].all())


def test_the_learning_rate_makes_up_for_the_steps_that_are_gone() -> None:
    method = method_of("kakurenbo", hide=0.5, sure=0.7)
    epoch_of(method, 0, SAID)
    epoch_of(method, 1, SAID)
    method.after_backward(Place(1, 9, 1, 2))
    assert method.context.optimizer.param_groups[0]["lr"] == 0.1 / (5 / 8)


def test_bandits_take_the_uncertain_and_epsilon_greedy_some_at_random() -> None:
    greedy = method_of("data_pruning", keep=0.5, every=2, by="epsilon_greedy", explore=0.0)
    epoch_of(greedy, 0, SAID)
    assert epoch_of(greedy, 1, SAID) == [[4, 5, 6, 7]]
    assert epoch_of(greedy, 2, SAID) == [[4, 5, 6, 7]]  # the choice is for two epochs
    mixed = method_of("data_pruning", keep=0.5, every=1, by="epsilon_greedy", explore=0.5)
    epoch_of(mixed, 0, SAID)
    chosen = [set(mixed.choose(Place(epoch, 99, 0, 2)).nonzero().flatten().tolist()) for epoch in range(1, 30)]
    assert all(len(one) == 4 and {6, 7} <= one for one in chosen)  # the two least sure are always there
    assert set().union(*chosen) == set(range(IMAGES))


def test_ucb_prefers_what_the_network_has_changed_its_mind_about() -> None:
    """Examples 0 and 1 are as uncertain in the running mean; 1 was not always."""
    method = method_of("data_pruning", keep=0.125, by="ucb", bonus=2.0)
    method._make_room(IMAGES)
    method.memory["uncertainty"][:2] = 0.4
    method.memory["spread"][1] = 0.01
    method.memory["uncertainty"][2] = 0.45
    assert method.choose(Place(1, 9, 0, 2)).nonzero().flatten().tolist() == [1]
