"""What a node does with a message: train, or evaluate, the network on its own share."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from segments import data, framework

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global network on this node's share and answer with the trained one."""
    images, labels = share(context)
    settings = message.content["config"]
    model = framework.train(
        message.content["arrays"].to_numpy_ndarrays(),
        images,
        labels,
        epochs=int(settings["local-epochs"]),
        rate=float(settings["learning-rate"]),
    )
    print(f"{framework.NAME} on {framework.device()}: trained on {len(labels)} images")
    metrics = MetricRecord({"num-examples": len(labels)})
    content = RecordDict({"arrays": ArrayRecord(model), "metrics": metrics})
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the global network on this node's share."""
    images, labels = share(context)
    model = message.content["arrays"].to_numpy_ndarrays()
    loss, accuracy = framework.evaluate(model, images, labels)
    metrics = MetricRecord({"num-examples": len(labels), "loss": loss, "accuracy": accuracy})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)


def share(context: Context) -> tuple[data.Images, data.Labels]:
    """Return what the node config says is this node's."""
    config = context.node_config
    return data.load_partition(int(config["partition-id"]), int(config["num-partitions"]))
