"""From labelled transfers to the model that ships: dataset, split, XGBoost, network, ensemble."""

import os

# Waiting threads sleep instead of spinning. Two heads train side by side on few cores: with libgomp's default the
# threads of XGBoost spin on cores that others need, and training takes ten times as long or more. libgomp reads this
# when it is loaded, so it must be set before xgboost is imported; the result of the training is the same.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
