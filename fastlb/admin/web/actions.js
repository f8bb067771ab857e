// What can be done to targets, groups and instances: which actions each has now, what is asked first.

import { act, askFirst } from "./dialogs.js";
import { counted } from "./format.js";

const PROCESSES = {
  launch: "Launch: start instances",
  terminate: "Terminate: end instances",
  scaling: "Scaling: change the desired number by policies",
};

const plainly = (path, body) => (button) => act(path, body, button);

/** Actions of a target: {label, hurts, run(button)}. */
export function targetActions(target) {
  const whom = { target: target.address, group: target.group };
  const name = target.instance ?? target.address;
  const actions = [];
  if (target.override === null || target.state === "healthy" || target.state === "unhealthy") {
    actions.push({
      label: "Drain",
      run: () =>
        askFirst({
          title: `Drain ${name}`,
          text: "New requests go to other targets at once. What is in flight ends in its own time.",
          fields: [
            {
              ...{ name: "timeout", label: "At most, in seconds", type: "number", min: 0 },
              ...{ optional: true, hint: "Empty: as long as the group’s own drain timeout." },
            },
          ],
          verb: "Drain",
          send: (values) => act("targets/drain", { ...whom, ...values }),
        }),
    });
    actions.push({
      label: "Disable",
      hurts: true,
      run: () =>
        askFirst({
          title: `Disable ${name}`,
          text: "It gets no requests, whatever its health, until it is enabled again.",
          verb: "Disable",
          hurts: true,
          send: () => act("targets/disable", whom),
        }),
    });
  }
  if (target.state === "draining" || isOverridden(target, "drain"))
    actions.push({ label: "Undrain", run: plainly("targets/undrain", whom) });
  if (target.state === "disabled" || isOverridden(target, "disable"))
    actions.push({ label: "Enable", run: plainly("targets/enable", whom) });
  actions.push({
    label: "Weight",
    run: () =>
      askFirst({
        title: `Weight of ${name}`,
        text: "Its share of the group’s requests, beside the weights of the others.",
        fields: [
          { name: "weight", label: "Weight", type: "number", value: target.weight, min: 0, max: 999 },
        ],
        verb: "Set weight",
        send: (values) => act("targets/weight", { ...whom, ...values }),
      }),
  });
  return actions;
}

const isOverridden = (target, word) => (target.override ?? "").includes(word);

export function groupActions(group) {
  const path = `auto-scaling-groups/${encodeURIComponent(group.name)}/`;
  const refreshing = group.refresh !== null && group.refresh !== undefined;
  return [
    {
      label: "Scale",
      run: () =>
        askFirst({
          title: `Scale ${group.name}`,
          text: `It has ${counted(group.in_service, "instance")} in service, and ${group.desired} desired. Who has to go is drained first. Its policies may change the number again.`,
          fields: [
            {
              ...{ name: "desired", label: "Desired instances", type: "number", value: group.desired },
              ...{ min: group.min, max: group.max, hint: `From ${group.min} to ${group.max}.` },
            },
          ],
          verb: "Scale",
          send: (values) => act(`${path}scale`, values),
        }),
    },
    refreshing
      ? {
          label: "Cancel refresh",
          hurts: true,
          run: () =>
            askFirst({
              title: `Cancel the refresh of ${group.name}`,
              text: "What was replaced stays so; nothing more is replaced.",
              verb: "Cancel the refresh",
              hurts: true,
              send: () => act(`${path}refresh`, { action: "cancel" }),
            }),
        }
      : {
          label: "Refresh",
          run: () =>
            askFirst({
              title: `Refresh ${group.name}`,
              text: `All of its instances (${group.in_service}) are replaced by new ones of the configured template: the new ones come first, and it goes back by itself where they answer worse.`,
              verb: "Refresh",
              send: () => act(`${path}refresh`, {}),
            }),
        },
    {
      label: "Suspend",
      run: () =>
        askFirst({
          title: `Suspend ${group.name}`,
          text: "A ticked process is suspended; one without a tick goes on.",
          fields: Object.entries(PROCESSES).map(([name, label]) => ({
            ...{ name, label, type: "check", value: group.suspended.includes(name) },
          })),
          verb: "Apply",
          send: async (values) => {
            const names = Object.keys(PROCESSES);
            const was = (name) => group.suspended.includes(name);
            const more = names.filter((name) => values[name] && !was(name));
            const fewer = names.filter((name) => !values[name] && was(name));
            let done = true;
            if (more.length) done = await act(`${path}suspend`, { processes: more });
            if (fewer.length) done = (await act(`${path}resume`, { processes: fewer })) && done;
            return done;
          },
        }),
    },
  ];
}

export function instanceActions(one) {
  const path = `instances/${encodeURIComponent(one.id)}/`;
  const actions = [];
  if (one.state === "in_service")
    actions.push({
      label: "Standby",
      run: () =>
        askFirst({
          title: `Put ${one.id} in standby`,
          text: "It is drained and kept running, out of service, so that you can look into it.",
          fields: [
            { name: "replace", label: "Launch another one in its place", type: "check", value: false },
          ],
          verb: "Standby",
          send: (values) => act(`${path}standby`, values),
        }),
    });
  if (one.state === "standby")
    actions.push({ label: "Return", run: plainly(`${path}return`, {}) });
  actions.push({
    label: one.protected ? "Unprotect" : "Protect",
    run: plainly(`${path}protect`, { on: !one.protected }),
  });
  if (one.state !== "terminating")
    actions.push({
      label: "Terminate",
      hurts: true,
      run: () =>
        askFirst({
          title: `Terminate ${one.id}`,
          text: "It is drained, then ended. Another one comes in its place first, unless the desired number is lowered.",
          fields: [
            { name: "decrement", label: "Lower the desired number by one", type: "check", value: false },
          ],
          verb: "Terminate",
          hurts: true,
          send: (values) => act(`${path}terminate`, values),
        }),
    });
  return actions;
}

export function reload() {
  askFirst({
    title: "Reload the configuration",
    text: "The file is read anew and checked first. If something in it is wrong, nothing changes.",
    verb: "Reload",
    send: () => act("reload", {}),
  });
}
