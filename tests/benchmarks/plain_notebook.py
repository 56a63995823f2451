"""The steps of the pipeline as a plain script, the way most notebooks of the competition do them.

``python tests/benchmarks/plain_notebook.py DATA OUTPUT``: what the pipeline is compared with.
"""

import sys
from pathlib import Path

import keras
import matplotlib as mpl
import pandas as pd
import seaborn as sns
from keras import layers
from matplotlib import pyplot as plt
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import train_test_split

mpl.use("Agg")
data, output = map(Path, sys.argv[1:])
train, test = (pd.read_csv(data / f"{name}.csv") for name in ("train", "test"))
labels = train.pop("label")

sns.countplot(x=labels)
plt.savefig(output / "labels.png")
plt.figure()
plt.hist(train.to_numpy().ravel(), bins=50, log=True)
plt.savefig(output / "intensities.png")

pixels = (train / 255).to_numpy("float32").reshape(-1, 28, 28, 1)
unseen = (test / 255).to_numpy("float32").reshape(-1, 28, 28, 1)
x, x_validation, y, y_validation = train_test_split(
    pixels, keras.utils.to_categorical(labels, 10), test_size=0.1, random_state=0
)
network = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dropout(0.25),
        layers.Dense(128, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(10, activation="softmax"),
    ]
)
network.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
history = network.fit(
    x, y, batch_size=50, epochs=10, validation_data=(x_validation, y_validation), verbose=2
).history

pd.DataFrame(history).plot()
plt.savefig(output / "curves.png")
guesses = network.predict(x_validation).argmax(axis=1)
plt.figure()
sns.heatmap(confusion_matrix(y_validation.argmax(axis=1), guesses), annot=True, fmt="d")
plt.savefig(output / "confusion.png")

digits = network.predict(unseen).argmax(axis=1)
submission = pd.DataFrame({"ImageId": range(1, len(digits) + 1), "Label": digits})
submission.to_csv(output / "submission.csv", index=False)
