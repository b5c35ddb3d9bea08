"""What a node does with a message: train, or evaluate, the model on its own share."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digits import config, task

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global model on this node's share and answer with the trained one."""
    partition_id, num_partitions = config.partition(context.node_config)
    (images, labels), _ = task.split(*task.load_partition(partition_id, num_partitions))
    settings = message.content["config"]
    model = task.train(
        message.content["arrays"].to_numpy_ndarrays(),
        images,
        labels,
        epochs=settings["local-epochs"],
        learning_rate=settings["learning-rate"],
        seed=(settings["server-round"], partition_id),
        proximal_mu=settings.get("proximal-mu", 0.0),  # FedProx sends it, no other strategy does
    )
    loss, accuracy = task.evaluate(model, images, labels)
    print(f"partition {partition_id} of {num_partitions}: trained on {len(labels)} images")
    return answer(message, len(labels), loss, accuracy, ArrayRecord(model))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the global model on the part of this node's share that it does not train on."""
    _, (images, labels) = task.split(*task.load_partition(*config.partition(context.node_config)))
    model = message.content["arrays"].to_numpy_ndarrays()
    return answer(message, len(labels), *task.evaluate(model, images, labels))


def answer(
    message: Message, examples: int, loss: float, accuracy: float, model: ArrayRecord | None = None
) -> Message:
    """Return the reply; strategies weigh it by `num-examples`."""
    content = RecordDict()
    content["metrics"] = MetricRecord(
        {"num-examples": examples, "loss": loss, "accuracy": accuracy}
    )
    if model is not None:
        content["arrays"] = model
    return Message(content=content, reply_to=message)
