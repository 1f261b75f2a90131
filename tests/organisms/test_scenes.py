import torch

from mechdiff.organisms.scenes import SceneStream
from mechdiff.tasks.boxes.task import Scene


def test_scenes_are_what_the_task_would_write(words):
    tokenizer, task = words
    stream = SceneStream(task, 0)
    object_of = {task.answer_id(word): word for word in task.objects}
    boxes = stream.draw(20)
    for ids, objects, query, answer in zip(boxes.input_ids, boxes.objects, boxes.query, boxes.answers, strict=True):
        labels = [tokenizer.id_to_token(ids[i]).removeprefix("Ġ") for i in stream.label_positions]
        scene = Scene(tuple(object_of[int(i)] for i in objects), tuple(labels), int(query))
        assert list(task.write(scene).input_ids) == ids.tolist()
        assert object_of[int(answer)] == scene.objects[scene.query]
        assert len(set(scene.objects)) == len(set(scene.labels)) == 7


def test_avoided_ordinals_are_never_queried(words):
    stream = SceneStream(words[1], 0)
    query = torch.arange(700) % 7
    drawn = stream.draw(700, avoiding=query).query
    assert (drawn != query).all() and set(drawn.tolist()) == set(range(7))


def test_same_seed_same_scenes(words):
    first, second, other = (SceneStream(words[1], seed).draw(5).input_ids for seed in (0, 0, 1))
    assert torch.equal(first, second) and not torch.equal(first, other)
